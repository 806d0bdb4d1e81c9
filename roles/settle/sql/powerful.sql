-- Whether the relation or type with OID $1 has code run, for its owner or for whoever uses it, that is not PostgreSQL's own or an
-- extension's: by a rule, a trigger, an index or statistics, which ANALYZE evaluates with the owner's rights, a default, a
-- generated column, a check, a policy, a partition key, or by a domain or range in one of its columns.
WITH RECURSIVE parts(classid, objid) AS (
	SELECT c.classid, $1::oid FROM (VALUES ('pg_class'::regclass::oid), ('pg_type'::regclass)) c(classid)
	UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = $1
	UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxrelid = $1
	UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = $1
	UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = $1 OR contypid = $1
	UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid = $1
), reach(classid, objid) AS (
	SELECT d.refclassid, d.refobjid FROM parts p JOIN pg_depend d USING (classid, objid)
	 WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
	UNION
	SELECT d.refclassid, d.refobjid FROM reach r JOIN pg_type t ON r.classid = 'pg_type'::regclass AND t.oid = r.objid
	  JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid
	                   OR d.classid = 'pg_class'::regclass AND d.objid = t.typrelid AND t.typrelid <> 0
	                   OR d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT k.oid FROM pg_constraint k WHERE k.contypid = t.oid)
	 WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
)
SELECT coalesce((SELECT relhasrules FROM pg_class WHERE oid = $1), false)
    OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal)
    OR EXISTS (SELECT FROM reach r WHERE r.classid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
                  AND NOT EXISTS (SELECT FROM pg_depend x JOIN pg_extension e ON e.oid = x.refobjid
                                   WHERE x.classid = r.classid AND x.objid = r.objid AND x.refclassid = 'pg_extension'::regclass AND x.deptype = 'e'
                                     AND pg_get_userbyid(e.extowner) !~ '^(hg_|hourgate_)'))
