-- What hangs together of what the role with OID $1 owns in this database: each row is something that can't be dropped before something
-- else that needs it. What is attached to an object, as rules, defaults and constraints are, counts as the object.
--   class, oid: the object; needed_by_class, needed_by: another of the role's, or 0 for somebody else's
WITH RECURSIVE owned AS (
	SELECT classid, objid FROM pg_shdepend
	 WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1 AND deptype = 'o' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
	   AND classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass)
), parts(rootclass, root, classid, objid) AS (
	SELECT classid, objid, classid, objid FROM owned
	UNION
	SELECT p.rootclass, p.root, d.classid, d.objid FROM parts p JOIN pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid
	 WHERE d.deptype IN ('i', 'a') AND NOT EXISTS (SELECT FROM pg_shdepend o WHERE o.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND o.classid = d.classid AND o.objid = d.objid AND o.objsubid = 0
	                      AND o.deptype = 'o' AND o.refclassid = 'pg_authid'::regclass AND o.refobjid = $1)
)
SELECT DISTINCT t.rootclass, t.root, coalesce(f.rootclass, 0), coalesce(f.root, 0)
  FROM parts t JOIN pg_depend d ON d.refclassid = t.classid AND d.refobjid = t.objid
  LEFT JOIN parts f ON f.classid = d.classid AND f.objid = d.objid
 WHERE d.deptype = 'n' AND (f.rootclass, f.root) IS DISTINCT FROM (t.rootclass, t.root)
