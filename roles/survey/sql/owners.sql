-- Who owns what people would use in this database, one row an owner.  $1 whether memberships have options (16)
-- grantable: whether this DBA may make others a member of it. self: the DBA. objects: how many; example: one of them.
-- Left out: what belongs to an extension or to a system schema; schemas that everybody may use; the database, where
-- everybody may connect to it; Hourgate's own roles.
WITH dba AS (
	SELECT oid, rolsuper AS super FROM pg_roles WHERE rolname = current_user
), used AS (
	SELECT relowner AS owner, c.oid::regclass::text AS example FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	 WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
	   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
	UNION ALL
	SELECT nspowner, 'schema ' || quote_ident(nspname) FROM pg_namespace n
	 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
	   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_namespace'::regclass AND e.objid = n.oid AND e.deptype = 'e')
	   AND NOT EXISTS (SELECT FROM aclexplode(nspacl) x WHERE x.grantee = 0 AND x.privilege_type = 'USAGE')
	UNION ALL
	SELECT datdba, 'database ' || quote_ident(datname) FROM pg_database
	 WHERE datname = current_database()
	   AND 2 > (SELECT count(*) FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) x
	             WHERE x.grantee = 0 AND x.privilege_type IN ('CONNECT', 'TEMPORARY'))
)
SELECT r.rolname::text AS name, r.rolsuper AS super, r.oid = dba.oid AS self,
       NOT r.rolsuper AND r.rolname !~ '^(pg_|rds)' AND CASE
           WHEN dba.super OR NOT $1 THEN true
           ELSE r.oid <> dba.oid AND pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION') END AS grantable,
       count(*)::int AS objects, min(used.example) AS example
  FROM used JOIN pg_roles r ON r.oid = used.owner, dba
 WHERE r.rolname !~ '^(hg_|hourgate_)' AND r.rolname <> 'pg_database_owner'
 GROUP BY r.rolname, r.rolsuper, r.oid, dba.oid, dba.super
 ORDER BY 1
