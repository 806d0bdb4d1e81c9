-- Autovacuum's workers in this database that may be inside code of one of the owners $1, which they run with its rights: an index
-- or statistics of theirs calls a function. They have no user.
--   $2 when the sessions of the role had ended, by the server's clock; see inside.sql
--   $3 the role and what it was a member of (text[])
--   table: the owners' table, as ALTER TABLE has it, on which the worker is; NULL for somebody else's, of which an index calls
--   the owners' code: the worker has taken a lock on what is no catalog to read or write it, which vacuum and analyze don't
SELECT a.pid, coalesce(a.backend_start, '-infinity'),
       max(c.oid::regclass::text) FILTER (WHERE c.relowner = ANY ($1::oid[]) AND l.mode = 'ShareUpdateExclusiveLock') AS table
  FROM pg_stat_activity a
  JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'relation' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  JOIN pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
 WHERE a.usesysid IS NULL AND coalesce(a.backend_type, 'autovacuum worker') = 'autovacuum worker' AND (a.xact_start < $2 OR a.xact_start IS NULL)
   AND c.relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_')
   AND (c.relowner = ANY ($1::oid[])
        OR l.mode IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
           AND EXISTS (SELECT FROM pg_roles g WHERE g.rolname = ANY ($3::text[]) AND has_table_privilege(g.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')))
 GROUP BY 1, 2
