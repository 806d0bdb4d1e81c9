-- What there is to do besides dropping the role with OID $1. $2: the roles that it was a member of, and that its grant names.
-- $4: these, and the roles that it was a member of with dangerous.
-- An owner of default privileges counts as an owner: pg_shdepend has a line for them.
--   others: databases in which the role or one of these has something, and in which a transaction of somebody else goes on that
--   began before $3, when the sessions of the role had ended; an admin without pg_read_all_stats is not shown when
WITH groups AS (SELECT oid, rolname FROM pg_roles WHERE rolname = ANY ($2::text[]))
SELECT EXISTS (SELECT FROM pg_prepared_xacts p JOIN pg_roles r ON r.rolname = p.owner WHERE r.oid = $1 OR r.rolname = ANY ($4::text[])),
       EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1),
       EXISTS (SELECT FROM pg_shdepend d JOIN groups g ON g.oid = d.refobjid WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o')
       OR EXISTS (SELECT FROM pg_db_role_setting s JOIN groups g ON g.oid = s.setrole),
       ARRAY(SELECT DISTINCT o.datname::text
               FROM (SELECT b.datname, pg_stat_get_backend_pid(i) AS pid
                       FROM pg_stat_get_backend_idset() i
                       JOIN pg_roles u ON u.oid = pg_stat_get_backend_userid(i)
                       JOIN pg_database b ON b.oid = pg_stat_get_backend_dbid(i)
                      WHERE NOT u.rolsuper AND u.rolname NOT IN (session_user, current_user)
                        AND EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.dbid = b.oid
                                                               AND (d.refobjid = $1 OR d.refobjid IN (SELECT oid FROM groups)))
                     OFFSET 0) o, -- no session's state is asked for that is of no interest: see verify
                    pg_stat_get_activity(o.pid) a
              WHERE a.xact_start < $3 OR a.xact_start IS NULL AND a.state IS NULL)
