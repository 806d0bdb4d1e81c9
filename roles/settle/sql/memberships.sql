-- What is to be revoked so that the roles with the OIDs $1 have no power and nobody has theirs: what they are members of,
-- who is a member of them besides the admin, and what they granted onward.
--   revocable: whether the admin may; a membership that a superuser granted goes with the role only (16 and later)
--   held: the role is the member
WITH ends AS (SELECT unnest($1::oid[]) AS role), rows AS (
	SELECT role, roleid, member, grantor FROM pg_auth_members JOIN ends ON member = role
	UNION SELECT role, roleid, member, grantor FROM pg_auth_members JOIN ends ON roleid = role
	UNION SELECT role, roleid, member, grantor FROM pg_auth_members JOIN ends ON grantor = role
)
SELECT role, g.rolname::text, m.rolname::text, coalesce(o.rolname, '')::text,
       o.oid IS NULL OR current_setting('server_version_num')::int < 160000 OR pg_has_role(o.oid, 'USAGE'),
       member = role
  FROM rows
  JOIN pg_roles g ON g.oid = roleid
  JOIN pg_roles m ON m.oid = member
  LEFT JOIN pg_roles o ON o.oid = grantor
 WHERE NOT (roleid = role AND m.rolname IN (session_user, current_user))
