-- One row: the server and what the DBA may do.  $1 the admin user's name, $2 the creator role's
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS release,
       current_user::text AS dba, current_database()::text AS database,
       r.rolsuper AS super, r.rolcreaterole AS create_role, pg_is_in_recovery() AS replica,
       EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS admin_exists,
       NOT EXISTS (SELECT FROM pg_roles c
                    WHERE c.rolname = $2 AND NOT r.rolsuper AND current_setting('server_version_num')::int >= 160000
                      AND NOT pg_has_role(c.oid, 'MEMBER WITH ADMIN OPTION')) AS can_grant_creator,
       r.rolsuper OR current_setting('server_version_num')::int < 160000
           OR pg_has_role('pg_signal_backend', 'MEMBER WITH ADMIN OPTION') AS can_signal,
       EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_password')
           AND current_setting('rds.restrict_password_commands', true) IN ('on', '1') AS restricts_passwords
  FROM pg_roles r WHERE r.rolname = current_user
