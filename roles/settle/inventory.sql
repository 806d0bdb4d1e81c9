-- What is left of the role with OID $1, after terminating once more what still runs under it.
--   $2 pattern of the profiles' names, $3 the roles that its grant names (text[], may be NULL)
-- An owner of default privileges counts as an owner: pg_shdepend has a line for them.
WITH groups AS (
	SELECT g.oid, g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
	 WHERE m.member = $1 AND (g.rolname ~ $2 OR g.rolname = ANY ($3::text[]))
)
SELECT (SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = $1)::int,
       pg_has_role($1::oid, 'USAGE'),
       EXISTS (SELECT FROM pg_prepared_xacts p JOIN pg_roles r ON r.rolname = p.owner WHERE r.oid = $1),
       EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
                WHERE m.grantor = $1 OR m.roleid = $1 AND NOT (r.rolname = session_user OR r.rolname = current_user)),
       EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1),
       EXISTS (SELECT FROM pg_shdepend d JOIN groups g ON g.oid = d.refobjid WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o')
       OR EXISTS (SELECT FROM pg_db_role_setting s JOIN groups g ON g.oid = s.setrole WHERE g.rolname ~ $2),
       (SELECT coalesce(array_agg(rolname::text), '{}') FROM groups WHERE rolname ~ $2)
