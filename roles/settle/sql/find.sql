-- The roles with the OIDs $1 that are there.
--   may: whether whom statements run as may alter and drop the role. pg_has_role would say so too, but not from a cache: it
--   takes milliseconds for each role where the admin is a member of thousands.
--   member: whether he may terminate its backends
--   attributes: as ALTER ROLE has them, what is to be taken besides CREATEROLE and he may take: the functions of the role have it, too
SELECT r.oid, r.rolname::text, coalesce(d.description, ''),
       current_setting('server_version_num')::int < 160000
       OR EXISTS (SELECT FROM pg_auth_members a JOIN pg_roles u ON u.oid = a.member
                   WHERE a.roleid = r.oid AND a.admin_option AND u.rolname = current_user),
       pg_has_role(r.oid, 'USAGE'),
       concat(CASE WHEN r.rolcreatedb AND (me.rolcreatedb OR current_setting('server_version_num')::int < 160000) THEN ' NOCREATEDB' END,
              CASE WHEN r.rolreplication AND me.rolreplication AND current_setting('server_version_num')::int >= 160000 THEN ' NOREPLICATION' END,
              CASE WHEN r.rolbypassrls AND me.rolbypassrls AND current_setting('server_version_num')::int >= 160000 THEN ' NOBYPASSRLS' END)
  FROM pg_roles r
  JOIN pg_roles me ON me.rolname = current_user
  LEFT JOIN pg_shdescription d ON d.classoid = 'pg_authid'::regclass AND d.objoid = r.oid
 WHERE r.oid = ANY ($1)
