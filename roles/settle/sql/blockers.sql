-- Terminates the sessions that the one with the pid $1 waits for, and returns them. Whoever waits for a row as the first holds the lock
-- on its tuple, for which the others wait (src/backend/access/heap/README.tuplock). So who holds the row is behind him.
--   $2 the group whose row it is, or that owns what has it; 0: the role itself, whose row nobody may hold
--   $3 whether nobody but ephemeral roles acts as the group; else its other members may hold its rows
-- Superusers, and whoever may make roles, as the admin of another gate, are left alone.
SELECT * FROM (
	SELECT a.pid, a.usesysid, coalesce(a.backend_start, '-infinity'), a.usename::text, coalesce(host(a.client_addr), 'local'), coalesce(a.application_name, '')
	  FROM (SELECT unnest(pg_blocking_pids($1::int))
	        UNION SELECT unnest(pg_blocking_pids(first.pid))
	          FROM pg_locks mine JOIN pg_locks first USING (locktype, database, relation, page, tuple)
	         WHERE locktype = 'tuple' AND mine.pid = $1 AND NOT mine.granted AND first.granted) b(pid) JOIN pg_stat_activity a USING (pid) JOIN pg_roles u ON u.oid = a.usesysid
	 WHERE NOT u.rolsuper AND ($2::oid = 0 OR NOT u.rolcreaterole AND u.rolname NOT IN (session_user, current_user) AND ($3 OR NOT pg_has_role(u.oid, $2::oid, 'MEMBER')))
	OFFSET 0) s -- which keeps the server from asking the next condition first, of all sessions
 WHERE pg_terminate_backend(s.pid)
