-- Sessions of others in this database that may be inside code that one of the owners $1 made, and go on with rights that it
-- had: a statement checks its rights once, and a transaction that holds a lock on a relation already does not hear that a
-- membership was revoked.
--   $1 who owns code here (oid[]): the role, and groups with which it was left
--   $2 when the sessions of the role had ended, by the server's clock
--   $3 the role and what it was a member of (text[])
-- An admin without pg_read_all_stats is not shown when a transaction began; this runs right after the end, so it takes it for
-- an older one. The evidence is a lock, from a transaction that began before, on a relation on which the session's own user has no right
-- that fits the lock while the role or its groups had one, or on a view of the owners.
WITH held AS (
	SELECT l.pid, l.relation, bool_or(l.mode <> 'AccessShareLock') AS writes
	  FROM pg_locks l
	 WHERE l.locktype = 'relation' AND l.granted AND l.pid IS NOT NULL
	   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	 GROUP BY 1, 2
)
SELECT DISTINCT a.pid, a.usesysid, coalesce(a.backend_start, '-infinity'), a.usename::text, coalesce(host(a.client_addr), 'local'), coalesce(a.application_name, '')
  FROM pg_stat_activity a
  JOIN held h ON h.pid = a.pid
  JOIN pg_class c ON c.oid = h.relation
  JOIN pg_roles u ON u.oid = a.usesysid
 WHERE (a.xact_start < $2 OR a.xact_start IS NULL) AND a.pid <> pg_backend_pid() AND NOT u.rolsuper AND a.usesysid <> ALL ($1::oid[])
   AND u.rolname NOT IN (session_user, current_user)
   AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND (c.relkind = 'v' AND c.relowner = ANY ($1::oid[])
        OR c.relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_')
           AND c.relowner <> ALL ($1::oid[])
           AND NOT (has_table_privilege(a.usesysid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(a.usesysid, c.oid, 'SELECT, INSERT, UPDATE'))
        OR c.relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_')
           AND c.relowner <> ALL ($1::oid[]) AND h.writes
           AND NOT (has_table_privilege(a.usesysid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(a.usesysid, c.oid, 'INSERT, UPDATE')))
   AND (c.relowner = ANY ($1::oid[])
        OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = ANY ($3::text[])
                    AND (has_table_privilege(g.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(g.oid, c.oid, 'SELECT, INSERT, UPDATE'))))
