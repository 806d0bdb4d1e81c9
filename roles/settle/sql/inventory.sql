-- What there is to do besides dropping the role with OID $1. $2: the roles that it was a member of, and that its grant names.
-- An owner of default privileges counts as an owner: pg_shdepend has a line for them.
WITH groups AS (SELECT oid, rolname FROM pg_roles WHERE rolname = ANY ($2::text[]))
SELECT EXISTS (SELECT FROM pg_prepared_xacts p JOIN pg_roles r ON r.rolname = p.owner WHERE r.oid = $1 OR r.rolname = ANY ($2::text[])),
       EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1),
       EXISTS (SELECT FROM pg_shdepend d JOIN groups g ON g.oid = d.refobjid WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o')
       OR EXISTS (SELECT FROM pg_db_role_setting s JOIN groups g ON g.oid = s.setrole)
