-- Sessions of others in this database that have, in a transaction that is still open, made something that belongs to one of the groups
-- $1, or changed its settings or default privileges: by way of a function that acts as the group. Nothing else shows it until they
-- commit. Whoever does so holds a lock on the group's role, as does who makes a table on which the group is given a privilege, so
-- those are left alone who may act as the owner of something on which it has one, or gives some by default.
--   $1 the groups' names (text[])
--   $2 when the sessions of the role had ended, by the server's clock; see inside.sql
SELECT DISTINCT a.pid, a.usesysid, coalesce(a.backend_start, '-infinity'), a.usename::text, coalesce(host(a.client_addr), 'local'), coalesce(a.application_name, '')
  FROM pg_roles g
  JOIN pg_locks l ON l.locktype = 'object' AND l.classid = 'pg_authid'::regclass AND l.objid = g.oid AND l.granted
  JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_roles u ON u.oid = a.usesysid
 WHERE g.rolname = ANY ($1::text[]) AND a.datname = current_database() AND (a.xact_start < $2 OR a.xact_start IS NULL)
   AND NOT u.rolsuper AND NOT u.rolcreaterole AND u.rolname NOT IN (session_user, current_user)
   AND NOT pg_has_role(u.oid, g.oid, 'MEMBER')
   AND NOT EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) x WHERE x.grantee = g.oid AND pg_has_role(u.oid, d.defaclrole, 'MEMBER'))
   AND NOT EXISTS (SELECT FROM pg_shdepend d
                    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = g.oid AND d.deptype = 'a' AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND pg_has_role(u.oid, CASE d.classid WHEN 'pg_class'::regclass THEN (SELECT relowner FROM pg_class WHERE oid = d.objid)
                                                            WHEN 'pg_namespace'::regclass THEN (SELECT nspowner FROM pg_namespace WHERE oid = d.objid)
                                                            WHEN 'pg_proc'::regclass THEN (SELECT proowner FROM pg_proc WHERE oid = d.objid) END, 'MEMBER'))
