-- Sessions of others in this database that may be inside code that one of the owners $1 made, and go on with rights that it
-- had: a statement checks its rights once, and a transaction that holds a lock on a relation already does not hear that a
-- membership was revoked.
--   $1 who owns code here (oid[]): the role, and groups with which it was left
--   $2 when the sessions of the role had ended, by the server's clock
--   $3 the role and what it was a member of (text[])
--   $4 whether the owners have code here. A tenant can drop a function that somebody is inside. Then only who has no other reason
--      for its lock counts.
-- An admin without pg_read_all_stats is not shown when a transaction began; this runs right after the end, so it takes it for
-- an older one. The evidence is a lock, from a transaction that began before, on a relation on which the session's own user has no right
-- that fits the lock while the role or its groups had one, or on a view of the owners. Rights on a partitioned table are rights on
-- its partitions. To call a function takes no lock: where the role could call one that the session's user can't, being in a
-- transaction is enough, unless he may make roles, as the admin of another gate.
WITH rights AS (SELECT oid FROM pg_roles WHERE rolname = ANY ($3::text[])
), sessions AS (
	SELECT a.pid, a.usesysid, a.backend_start, a.usename, a.client_addr, a.application_name, u.rolcreaterole
	  FROM pg_stat_activity a JOIN pg_roles u ON u.oid = a.usesysid
	 WHERE (a.xact_start < $2 OR a.xact_start IS NULL) AND a.datname = current_database() AND a.pid <> pg_backend_pid() AND NOT u.rolsuper
	   AND a.usesysid <> ALL ($1::oid[]) AND u.rolname NOT IN (session_user, current_user)
), held AS (
	SELECT l.pid, l.relation, bool_or(l.mode <> 'AccessShareLock') AS writes
	  FROM pg_locks l
	 WHERE l.locktype = 'relation' AND l.granted AND l.pid IS NOT NULL
	   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	 GROUP BY 1, 2
), evidence AS (
	SELECT s.pid, s.usesysid, c.oid AS relation, h.writes
	  FROM sessions s JOIN held h ON h.pid = s.pid JOIN pg_class c ON c.oid = h.relation
	 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
	   AND (c.relkind = 'v' AND c.relowner = ANY ($1::oid[])
	        OR c.relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_') AND c.relowner <> ALL ($1::oid[])
	           AND NOT EXISTS (
	               SELECT FROM (SELECT c.oid UNION SELECT p.relid FROM pg_partition_ancestors(c.oid) p) t(oid)
	                WHERE CASE WHEN c.relkind = 'S' AND h.writes THEN has_sequence_privilege(s.usesysid, t.oid, 'USAGE, UPDATE')
	                           WHEN c.relkind = 'S' THEN has_sequence_privilege(s.usesysid, t.oid, 'USAGE, SELECT, UPDATE')
	                           WHEN h.writes THEN has_table_privilege(s.usesysid, t.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(s.usesysid, t.oid, 'INSERT, UPDATE')
	                           ELSE has_table_privilege(s.usesysid, t.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(s.usesysid, t.oid, 'SELECT, INSERT, UPDATE') END))
	   AND (c.relowner = ANY ($1::oid[])
	        OR EXISTS (SELECT FROM rights g
	                    WHERE CASE c.relkind WHEN 'S' THEN has_sequence_privilege(g.oid, c.oid, 'USAGE, SELECT, UPDATE')
	                               ELSE has_table_privilege(g.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(g.oid, c.oid, 'SELECT, INSERT, UPDATE') END))
), guarded AS MATERIALIZED (
	SELECT f.oid FROM pg_proc f
	 WHERE f.proacl IS NOT NULL AND f.proowner <> ALL ($1::oid[]) AND EXISTS (SELECT FROM rights g WHERE has_function_privilege(g.oid, f.oid, 'EXECUTE'))
	   AND NOT EXISTS (SELECT FROM aclexplode(f.proacl) x WHERE x.grantee = 0)
), inside AS (
	SELECT e.pid FROM evidence e JOIN pg_class c ON c.oid = e.relation
	 WHERE $4
	    -- a function of others that acts as somebody with a right, a view or a rule, or a foreign key
	    OR NOT EXISTS (SELECT FROM pg_proc f WHERE f.prosecdef AND f.proowner <> ALL ($1::oid[]) AND f.oid >= 16384
	                      AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(f.proowner, c.oid, 'USAGE, SELECT, UPDATE') ELSE has_table_privilege(f.proowner, c.oid, 'SELECT, INSERT, UPDATE, DELETE') END)
	       AND NOT EXISTS (SELECT FROM held o JOIN pg_class v ON v.oid = o.relation
	                        WHERE o.pid = e.pid AND v.oid <> c.oid AND v.relowner <> ALL ($1::oid[]) AND (v.relkind = 'v' OR v.relhasrules
	                              OR EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND (k.conrelid, k.confrelid) IN ((v.oid, c.oid), (c.oid, v.oid))))
	                          AND has_table_privilege(e.usesysid, v.oid, 'SELECT, INSERT, UPDATE, DELETE'))
	UNION
	SELECT s.pid FROM sessions s
	 WHERE NOT s.rolcreaterole AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = s.pid AND l.locktype = 'virtualxid' AND l.granted)
	   AND EXISTS (SELECT FROM guarded f WHERE NOT has_function_privilege(s.usesysid, f.oid, 'EXECUTE'))
)
SELECT s.pid, s.usesysid, coalesce(s.backend_start, '-infinity'), s.usename::text, coalesce(host(s.client_addr), 'local'), coalesce(s.application_name, '')
  FROM sessions s WHERE s.pid IN (SELECT pid FROM inside)
