-- What this database's own set-up means for grants: name, status, detail, and the SQL that mends it (lines).
--   $1 the role that Hourgate acts as, $2 whether memberships have options (16)
WITH owners AS (
	SELECT o.oid, pg_get_userbyid(o.oid) AS owner, min(o.example) AS example FROM (
		SELECT relowner AS oid, 'table ' || c.oid::regclass AS example FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
		   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
		UNION ALL
		SELECT nspowner, 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
		   AND NOT has_schema_privilege($1, oid, 'USAGE WITH GRANT OPTION')
		   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_namespace'::regclass AND e.objid = pg_namespace.oid AND e.deptype = 'e')
		   AND NOT EXISTS (SELECT FROM aclexplode(nspacl) x WHERE x.grantee = 0 AND x.privilege_type = 'USAGE')
	) o WHERE NOT pg_has_role($1, o.oid, 'USAGE') AND pg_get_userbyid(o.oid) !~ '^(hg_|hourgate_)' GROUP BY o.oid
), public_database AS (
	SELECT x.privilege_type FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
	 WHERE d.datname = current_database() AND x.grantee = 0
)
SELECT 'owners' AS name, 'warn' AS status,
       format('%s owns %s, and %s is not a member of it: grants leave out what it owns', owner, example, $1) AS detail,
       CASE WHEN r.rolsuper THEN '-- ' || quote_ident(owner) || ' is a superuser: give the object another owner'
            WHEN $2 AND r.rolcanlogin AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid AND m.admin_option)
            THEN format(E'-- nobody but a superuser may run GRANT %1$I TO %2$I. Without one, as on RDS, %1$I runs once in this database:\n'
                        'CREATE ROLE %3$I NOLOGIN;\nGRANT %3$I TO %2$I WITH INHERIT TRUE, SET FALSE;\nGRANT %3$I TO %1$I WITH INHERIT TRUE, SET TRUE;\n'
                        'REASSIGN OWNED BY %1$I TO %3$I; -- the databases that it owns, too; it still may all it could, as a member',
                        owner, $1, current_database() || '_owner')
            ELSE format('GRANT %I TO %I%s;', owner, $1, CASE WHEN $2 THEN ' WITH INHERIT TRUE, SET FALSE' ELSE '' END) END AS sql
  FROM owners JOIN pg_roles r USING (oid)
UNION ALL
SELECT 'own schema', 'warn', format('%s may not create schemas here, so an ADMIN has none of its own and creates only where create_in says', $1),
       format('GRANT CREATE ON DATABASE %I TO %I;', current_database(), $1)
 WHERE NOT has_database_privilege($1, current_database(), 'CREATE')
UNION ALL
SELECT 'owners', 'ok', $1 || ' is a member of all owners', '' WHERE NOT EXISTS (SELECT FROM owners)
UNION ALL
SELECT 'public ' || lower(privilege_type), 'warn',
       CASE privilege_type WHEN 'CONNECT' THEN 'everybody may connect, so tenants of other databases may too'
                           ELSE 'everybody may make temporary tables' END,
       CASE privilege_type WHEN 'CONNECT' THEN format(E'-- before it: GRANT CONNECT ON DATABASE %I TO each application that connects, or it is cut off\n', current_database())
                           ELSE '' END ||
       format('REVOKE %s ON DATABASE %I FROM PUBLIC;', privilege_type, current_database())
  FROM public_database WHERE privilege_type IN ('CONNECT', 'TEMPORARY')
UNION ALL
SELECT 'public create', 'warn', 'everybody may create in schema ' || nspname || ', READ_ONLY too: a function there may be what others call who do not name the schema; settling removes it',
       format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC;', nspname)
  FROM pg_namespace n, aclexplode(n.nspacl) x
 WHERE x.grantee = 0 AND x.privilege_type = 'CREATE' AND nspname !~ '^pg_'
UNION ALL
SELECT 'extension', 'warn', extname || ' lets a tenant connect from the server itself; such sessions are found and ended',
       'DROP EXTENSION ' || quote_ident(extname) || ';'
  FROM pg_extension WHERE extname IN ('dblink', 'postgres_fdw')
UNION ALL
SELECT 'security definer', 'warn', format('everybody may execute %s, which runs as %s%s', f.oid::regprocedure, pg_get_userbyid(f.proowner),
                                          CASE WHEN r.rolsuper THEN ', a superuser' ELSE '' END),
       format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC;', f.oid::regprocedure)
  FROM pg_proc f JOIN pg_roles r ON r.oid = f.proowner JOIN pg_namespace n ON n.oid = f.pronamespace
 WHERE f.prosecdef AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND EXISTS (SELECT FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) x WHERE x.grantee = 0 AND x.privilege_type = 'EXECUTE')
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e')
UNION ALL
SELECT 'policies', 'warn', format('policy %s on %s names a profile of Hourgate; a tenant can drop it on servers without the fixes', p.polname, p.polrelid::regclass), ''
  FROM pg_policy p WHERE EXISTS (SELECT FROM pg_roles r WHERE r.oid = ANY (p.polroles) AND r.rolname ~ '^hourgate_')
ORDER BY 1, 3
