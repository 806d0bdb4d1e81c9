-- What the profile role $1 lacks, and has too much, in this database for the objects that a grant names. The rows are
-- those of profile_gaps.sql, and besides
--   kind MISSING: target is a name that the database does not have;
--   kind LEFT OUT TABLE (and so on): a star stands for it, and the admin may not grant it;
--   kind REVOKE TABLE (and so on): the profile has these privileges and should not, as on a table that was renamed.
--   $1 profile role's name
--   $2 the objects: a JSON array of {kind, schema, name, arguments, privileges}; an empty name means all in the schema
WITH profile AS (
	SELECT oid FROM pg_roles WHERE rolname = $1
), items AS (
	SELECT i.kind, i.schema, i.name, i.arguments, i.privileges, n.oid AS nsp, n.nspowner
	  FROM jsonb_to_recordset($2::jsonb) i(kind text, schema text, name text, arguments text, privileges text[])
	  LEFT JOIN pg_namespace n ON n.nspname = i.schema
), relations AS (
	SELECT i.kind, c.oid, c.relowner AS owner, i.privileges, i.name,
	       CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS class,
	       quote_ident(i.schema) || '.' || quote_ident(c.relname) AS target
	  FROM items i JOIN pg_class c ON c.relnamespace = i.nsp AND (i.name = '' OR c.relname = i.name)
	 WHERE i.kind = 'tables' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') OR i.kind = 'sequences' AND c.relkind = 'S'
), routines AS (
	SELECT f.oid, f.proowner AS owner, i.privileges, i.name, i.schema,
	       quote_ident(i.schema) || '.' || quote_ident(f.proname) || '(' || pg_get_function_identity_arguments(f.oid) || ')' AS target
	  FROM items i JOIN pg_proc f ON f.pronamespace = i.nsp
	   AND (i.name = '' OR f.proname = i.name AND (i.arguments = '' OR f.oid = to_regprocedure(quote_ident(i.schema) || '.' || quote_ident(i.name) || i.arguments)))
	 WHERE i.kind = 'functions'
), gaps AS (
	SELECT 'DATABASE' AS kind, quote_ident(d.datname) AS target, 'CONNECT' AS privilege, d.datdba AS owner
	  FROM pg_database d, profile
	 WHERE d.datname = current_database() AND NOT has_database_privilege(profile.oid, d.oid, 'CONNECT')
	UNION ALL
	SELECT DISTINCT 'SCHEMA', quote_ident(i.schema), 'USAGE', i.nspowner
	  FROM items i, profile WHERE i.nsp IS NOT NULL AND NOT has_schema_privilege(profile.oid, i.nsp, 'USAGE')
	UNION ALL
	SELECT CASE WHEN r.name = '' AND NOT pg_has_role(r.owner, 'USAGE') THEN 'LEFT OUT ' ELSE '' END || r.class, r.target, p.priv, r.owner
	  FROM relations r, profile, unnest(r.privileges) p(priv)
	 WHERE CASE r.class WHEN 'SEQUENCE' THEN NOT has_sequence_privilege(profile.oid, r.oid, p.priv)
	                    ELSE NOT has_table_privilege(profile.oid, r.oid, p.priv) END
	   AND (r.name <> '' OR pg_get_userbyid(r.owner) !~ '^hg_')
	UNION ALL
	SELECT CASE WHEN f.name = '' AND NOT pg_has_role(f.owner, 'USAGE') THEN 'LEFT OUT ' ELSE '' END || 'ROUTINE', f.target, 'EXECUTE', f.owner
	  FROM routines f, profile
	 WHERE NOT has_function_privilege(profile.oid, f.oid, 'EXECUTE') AND (f.name <> '' OR pg_get_userbyid(f.owner) !~ '^hg_')
), missing AS (
	SELECT i.schema || '.' || i.name || i.arguments AS target FROM items i
	 WHERE i.nsp IS NULL
	    OR i.name <> '' AND i.kind = 'functions' AND NOT EXISTS (SELECT FROM routines f WHERE f.name = i.name AND f.schema = i.schema)
	    OR i.name <> '' AND i.kind <> 'functions'
	       AND NOT EXISTS (SELECT FROM relations r JOIN pg_class c ON c.oid = r.oid WHERE r.kind = i.kind AND c.relname = i.name AND c.relnamespace = i.nsp)
), owners AS (
	SELECT i.kind, i.nsp, i.schema, i.privileges, i.nspowner AS owner FROM items i WHERE i.name = '' AND i.nsp IS NOT NULL
	UNION SELECT i.kind, i.nsp, i.schema, i.privileges, r.owner FROM items i JOIN relations r ON r.name = '' AND r.kind = i.kind
	                AND r.oid IN (SELECT oid FROM pg_class WHERE relnamespace = i.nsp) WHERE i.name = ''
), defaults AS (
	SELECT upper(o.kind) AS kind, o.schema, r.rolname, p.priv
	  FROM owners o JOIN pg_roles r ON r.oid = o.owner, profile, unnest(o.privileges) p(priv)
	 WHERE NOT r.rolsuper AND r.rolname !~ '^pg_' AND pg_has_role(r.oid, 'USAGE')
	   AND NOT EXISTS (SELECT FROM pg_default_acl a, aclexplode(a.defaclacl) x
	                    WHERE a.defaclrole = r.oid AND a.defaclnamespace = o.nsp
	                      AND a.defaclobjtype = CASE o.kind WHEN 'tables' THEN 'r' WHEN 'sequences' THEN 'S' ELSE 'f' END
	                      AND x.grantee = profile.oid AND x.privilege_type = p.priv)
), surplus AS (
	SELECT CASE c.relkind WHEN 'S' THEN 'REVOKE SEQUENCE' ELSE 'REVOKE TABLE' END AS kind,
	       c.oid::regclass::text AS target, x.privilege_type AS privilege, c.relowner AS owner
	  FROM pg_class c, aclexplode(c.relacl) x, profile
	 WHERE x.grantee = profile.oid
	   AND NOT EXISTS (SELECT FROM relations r WHERE r.oid = c.oid AND x.privilege_type = ANY (r.privileges))
	UNION ALL
	SELECT 'REVOKE ROUTINE', f.oid::regprocedure::text, x.privilege_type, f.proowner
	  FROM pg_proc f, aclexplode(f.proacl) x, profile
	 WHERE x.grantee = profile.oid AND NOT EXISTS (SELECT FROM routines r WHERE r.oid = f.oid)
	UNION ALL
	SELECT 'REVOKE SCHEMA', quote_ident(n.nspname), x.privilege_type, n.nspowner
	  FROM pg_namespace n, aclexplode(n.nspacl) x, profile
	 WHERE x.grantee = profile.oid AND NOT (x.privilege_type = 'USAGE' AND EXISTS (SELECT FROM items i WHERE i.nsp = n.oid))
)
SELECT kind, target, string_agg(DISTINCT privilege, ', ') AS privileges, pg_get_userbyid(owner)::text AS owner, pg_has_role(owner, 'USAGE') AS grantable
  FROM (SELECT * FROM gaps UNION ALL SELECT * FROM surplus) g
 GROUP BY kind, target, owner
UNION ALL
SELECT kind || ' IN SCHEMA ' || quote_ident(schema), quote_ident(rolname), string_agg(DISTINCT priv, ', '), rolname::text, true
  FROM defaults
 WHERE rolname !~ '^hg_'
 GROUP BY kind, schema, rolname
UNION ALL
SELECT 'MISSING', target, '', '', true FROM missing
 ORDER BY 1, 2
