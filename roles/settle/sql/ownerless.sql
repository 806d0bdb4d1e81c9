-- What has no owner and carries the code of the role with OID $1 on: triggers on other people's tables that call its
-- functions, and casts from or to its types. Triggers on temporary tables run for one session only, which made them itself, and
-- can't be dropped by another.
SELECT s.class::oid, s.oid, o.type, o.identity
  FROM (SELECT 'pg_trigger'::regclass AS class, t.oid
          FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_class r ON r.oid = t.tgrelid
         WHERE f.proowner = $1 AND r.relowner <> $1 AND r.relpersistence <> 't' AND NOT t.tgisinternal AND t.tgparentid = 0
        UNION ALL
        SELECT 'pg_cast'::regclass, c.oid
          FROM pg_cast c JOIN pg_type a ON a.oid = c.castsource JOIN pg_type b ON b.oid = c.casttarget
         WHERE $1 IN (a.typowner, b.typowner)
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_cast'::regclass AND d.objid = c.oid AND d.deptype IN ('i', 'e'))) s,
       pg_identify_object(s.class, s.oid, 0) o
 WHERE o.identity IS NOT NULL
