-- What the profile role $1 still lacks in this database for an access level, one row an object or owner.
--   $1 profile role's name
--   $2 table privileges, $3 sequence privileges (text[])
--   $4 whether routines and schemas are to be executable and creatable (ADMIN)
--   $5 whether the database grants TEMPORARY
-- kind: what to grant on; target: quoted name; privileges: as in GRANT; owner: whose right it is to grant;
-- grantable: whether the admin has that right. Rows of kind REVOKE TABLE (and so on) and REVOKE TABLES, for default
-- privileges, are what the profile has and should not: a level may have meant more to another version of this program.
-- Left out: system schemas; what belongs to an extension and isn't the admin's to grant; what ephemeral roles own.
WITH profile AS (
	SELECT oid FROM pg_roles WHERE rolname = $1
), gaps AS (
	SELECT 'DATABASE' AS kind, quote_ident(d.datname) AS target, p.priv AS privilege, d.datdba AS owner
	  FROM pg_database d, profile,
	       unnest(CASE WHEN $5::bool THEN ARRAY['CONNECT', 'TEMPORARY'] ELSE ARRAY['CONNECT'] END) p(priv)
	 WHERE d.datname = current_database() AND NOT has_database_privilege(profile.oid, d.oid, p.priv)
	UNION ALL
	SELECT 'SCHEMA', quote_ident(n.nspname), 'USAGE', n.nspowner
	  FROM pg_namespace n, profile
	 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	   AND NOT has_schema_privilege(profile.oid, n.oid, 'USAGE')
	   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_namespace'::regclass AND e.objid = n.oid AND e.deptype = 'e'
	                                          AND NOT pg_has_role(n.nspowner, 'USAGE'))
	UNION ALL
	SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
	       quote_ident(n.nspname) || '.' || quote_ident(c.relname), p.priv, c.relowner
	  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, profile,
	       unnest(CASE c.relkind WHEN 'S' THEN $3::text[] ELSE $2::text[] END) p(priv)
	 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
	   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	   AND CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(profile.oid, c.oid, p.priv)
	                      ELSE NOT has_table_privilege(profile.oid, c.oid, p.priv) END
	   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e'
	                                          AND NOT pg_has_role(c.relowner, 'USAGE'))
	UNION ALL
	SELECT 'ROUTINE', quote_ident(n.nspname) || '.' || quote_ident(f.proname) || '(' || pg_get_function_identity_arguments(f.oid) || ')',
	       'EXECUTE', f.proowner
	  FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace, profile
	 WHERE $4::bool AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	   AND NOT has_function_privilege(profile.oid, f.oid, 'EXECUTE')
	   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e'
	                                          AND NOT pg_has_role(f.proowner, 'USAGE'))
), owners AS (
	-- whose future objects are to be covered: whoever owns something here that people use
	SELECT nspowner AS owner FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
	UNION SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	       WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	UNION SELECT datdba FROM pg_database WHERE datname = current_database()
), defaults AS (
	SELECT v.kind, r.rolname, p.priv, r.oid AS owner
	  FROM owners JOIN pg_roles r ON r.oid = owners.owner, profile,
	       (VALUES ('TABLES', 'r', $2::text[]), ('SEQUENCES', 'S', $3::text[]), ('SCHEMAS', 'n', ARRAY['USAGE'])) v(kind, objtype, privs),
	       unnest(v.privs) p(priv)
	 WHERE NOT r.rolsuper AND r.rolname !~ '^pg_' AND pg_has_role(r.oid, 'USAGE')
	   AND NOT EXISTS (SELECT FROM pg_default_acl a, aclexplode(a.defaclacl) x
	                    WHERE a.defaclrole = r.oid AND a.defaclnamespace = 0 AND a.defaclobjtype = v.objtype::"char"
	                      AND x.grantee = profile.oid AND x.privilege_type = p.priv)
), surplus AS (
	SELECT CASE c.relkind WHEN 'S' THEN 'REVOKE SEQUENCE' ELSE 'REVOKE TABLE' END AS kind, c.oid::regclass::text AS target, x.privilege_type AS privilege, c.relowner AS owner
	  FROM pg_class c, aclexplode(c.relacl) x, profile
	 WHERE x.grantee = profile.oid AND x.privilege_type <> ALL (CASE c.relkind WHEN 'S' THEN $3::text[] ELSE $2::text[] END)
	UNION ALL
	SELECT CASE a.defaclobjtype WHEN 'S' THEN 'REVOKE SEQUENCES' ELSE 'REVOKE TABLES' END, quote_ident(pg_get_userbyid(a.defaclrole)), x.privilege_type, a.defaclrole
	  FROM pg_default_acl a, aclexplode(a.defaclacl) x, profile
	 WHERE x.grantee = profile.oid AND a.defaclnamespace = 0 AND a.defaclobjtype IN ('r', 'S')
	   AND x.privilege_type <> ALL (CASE a.defaclobjtype WHEN 'S' THEN $3::text[] ELSE $2::text[] END)
)
SELECT kind, target, string_agg(privilege, ', ' ORDER BY privilege) AS privileges,
       pg_get_userbyid(owner)::text AS owner, pg_has_role(owner, 'USAGE') AS grantable
  FROM gaps
 WHERE pg_get_userbyid(owner) !~ '^hg_'
 GROUP BY kind, target, owner
UNION ALL
SELECT kind, target, string_agg(privilege, ', ' ORDER BY privilege), pg_get_userbyid(owner)::text, true
  FROM surplus WHERE pg_has_role(owner, 'USAGE')
 GROUP BY kind, target, owner
UNION ALL
SELECT kind, quote_ident(rolname), string_agg(priv, ', ' ORDER BY priv), rolname::text, true
  FROM defaults
 WHERE rolname !~ '^hg_'
 GROUP BY kind, rolname
 ORDER BY 1, 2
