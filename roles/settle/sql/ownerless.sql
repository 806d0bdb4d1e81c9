-- What has no owner and carries the code of the role with OID $1 on: triggers on other people's tables that call its
-- functions, casts from or to its types, and user mappings for its foreign servers, which may be others' or for everybody.
-- Triggers on temporary tables run for one session only, which made them itself, and can't be dropped by another.
SELECT s.class::oid, s.oid, o.type, coalesce(s.identity, o.identity)
  FROM (SELECT 'pg_trigger'::regclass AS class, t.oid, NULL AS identity
          FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_class r ON r.oid = t.tgrelid
         WHERE f.proowner = $1 AND r.relowner <> $1 AND r.relpersistence <> 't' AND NOT t.tgisinternal AND t.tgparentid = 0
        UNION ALL
        SELECT 'pg_cast'::regclass, c.oid, NULL
          FROM pg_cast c JOIN pg_type a ON a.oid = c.castsource JOIN pg_type b ON b.oid = c.casttarget
         WHERE $1 IN (a.typowner, b.typowner)
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_cast'::regclass AND d.objid = c.oid AND d.deptype IN ('i', 'e'))
        UNION ALL
        SELECT 'pg_user_mapping'::regclass, u.umid, format('FOR %I SERVER %I', u.usename, u.srvname)
          FROM pg_user_mappings u JOIN pg_foreign_server f ON f.oid = u.srvid WHERE f.srvowner = $1) s,
       pg_identify_object(s.class, s.oid, 0) o
 WHERE o.identity IS NOT NULL
