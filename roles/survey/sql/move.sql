DO $hourgate$
DECLARE
  command text;
BEGIN
  FOR command IN
    SELECT c FROM (
      SELECT 1 AS step, format('ALTER DATABASE %I OWNER TO %I', d.datname, new) AS c
        FROM pg_database d, names
       WHERE d.datname = current_database() AND pg_get_userbyid(d.datdba) = ANY (old)
         AND 2 > (SELECT count(*) FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
                   WHERE x.grantee = 0 AND x.privilege_type IN ('CONNECT', 'TEMPORARY'))
      UNION ALL
      SELECT 2, format('ALTER SCHEMA %I OWNER TO %I', n.nspname, new)
        FROM pg_namespace n, names
       WHERE pg_get_userbyid(n.nspowner) = ANY (old) AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
         AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_namespace'::regclass AND e.objid = n.oid AND e.deptype = 'e')
      UNION ALL
      -- The owner of a table must be able to create in its schema.
      SELECT DISTINCT 3, format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', n.nspname, new)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, names
       WHERE pg_get_userbyid(c.relowner) = ANY (old)
         AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT has_schema_privilege(new, n.oid, 'CREATE')
         AND NOT (pg_get_userbyid(n.nspowner) = ANY (old) AND n.nspname <> 'public')
      UNION ALL
      SELECT 4, format('ALTER TABLE %s OWNER TO %I', c.oid::regclass, new)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, names
       WHERE pg_get_userbyid(c.relowner) = ANY (old) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
         AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
         AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid
                                                  AND (e.deptype = 'e' OR c.relkind = 'S' AND e.deptype IN ('a', 'i')))
    ) commands ORDER BY step
  LOOP
    EXECUTE command;
  END LOOP;
END
$hourgate$
