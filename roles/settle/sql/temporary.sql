-- Sessions of others in this database whose temporary schema holds something of the owner $1, which a function that acts as the owner
-- has made there. Nobody else can name what is in such a schema, so that it goes with its session only.
--   $2 when the sessions of the role had ended, by the server's clock
--   $3 whether all counts, or only what gives others something, since others act as the owner too
-- The schema has the number of its session's place in the server's list. From 16 on that can be asked for. Before, sessions are
-- only told in the order of their places, and who is in a transaction shows his: what is between the places known counts.
WITH places AS (
	SELECT DISTINCT substring(n.nspname FROM '^pg_temp_([0-9]+)$')::int AS place
	  FROM pg_namespace n
	 WHERE n.nspname ~ '^pg_temp_[0-9]+$'
	   AND (EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relowner = $1 AND ($3 OR c.relacl IS NOT NULL OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)))
	        OR EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proowner = $1 AND ($3 OR p.prosecdef))
	        OR $3 AND EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typowner = $1))
), listed AS (SELECT k, pg_stat_get_backend_pid(k) AS pid FROM pg_stat_get_backend_idset() k
), shown AS (SELECT DISTINCT l.pid, split_part(l.virtualtransaction, '/', 1)::int AS place FROM pg_locks l WHERE l.pid IS NOT NULL
), bounds AS (
	SELECT k, pid, k + coalesce(max(place - k) OVER (ORDER BY k), 0) AS least, k + min(place - k) OVER (ORDER BY k ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS most
	  FROM listed LEFT JOIN shown USING (pid)
)
SELECT DISTINCT a.pid, a.usesysid, coalesce(a.backend_start, '-infinity'), a.usename::text, coalesce(host(a.client_addr), 'local'), coalesce(a.application_name, '')
  FROM pg_stat_activity a JOIN pg_roles u ON u.oid = a.usesysid JOIN bounds b USING (pid)
  JOIN places p ON CASE WHEN current_setting('server_version_num')::int >= 160000 THEN p.place = b.k ELSE p.place >= b.least AND (b.most IS NULL OR p.place <= b.most) END
 WHERE a.datname = current_database() AND NOT u.rolsuper AND u.rolname NOT IN (session_user, current_user)
   AND (a.backend_start < $2 OR a.backend_start IS NULL)
