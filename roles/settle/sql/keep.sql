-- What of the objects with the OIDs $1 may go to the role $2, because nothing that is attached to them runs code or
-- lasts as somebody's right. One row an object:
--   oid; kind as in ALTER; identity, quoted; schema, quoted; problem: why it may not go, or ''; needs: the OIDs of what it
--   can go with only.
-- What is not listed as harmless is a problem: another version's new kind of object stays behind.
--   $1 oid[] of relations and types, $2 the new owner's OID
WITH relations AS (
	SELECT c.* FROM pg_class c WHERE c.oid = ANY ($1)
), types AS (
	SELECT t.* FROM pg_type t WHERE t.oid = ANY ($1) AND NOT EXISTS (SELECT FROM relations r WHERE r.oid = t.oid)
), rowtypes AS ( -- what can be cast and operated on: the types themselves, rows, and arrays of either
	SELECT t.oid AS of, t.oid FROM types t UNION ALL SELECT t.oid, t.typarray FROM types t
	UNION ALL SELECT r.oid, r.reltype FROM relations r
	UNION ALL SELECT r.oid, t.typarray FROM relations r JOIN pg_type t ON t.oid = r.reltype
), parts AS ( -- each object, and what is attached to it
	SELECT r.oid AS of, 'pg_class'::regclass::oid AS classid, r.oid AS objid FROM relations r
	UNION ALL SELECT t.oid, 'pg_type'::regclass, t.oid FROM types t
	UNION ALL SELECT t.oid, 'pg_class'::regclass, t.typrelid FROM types t WHERE t.typrelid <> 0
	UNION ALL SELECT a.adrelid, 'pg_attrdef'::regclass, a.oid FROM pg_attrdef a JOIN relations r ON r.oid = a.adrelid
	UNION ALL SELECT k.conrelid, 'pg_constraint'::regclass, k.oid FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid
	UNION ALL SELECT k.contypid, 'pg_constraint'::regclass, k.oid FROM pg_constraint k JOIN types t ON t.oid = k.contypid
	UNION ALL SELECT i.indrelid, 'pg_class'::regclass, i.indexrelid FROM pg_index i JOIN relations r ON r.oid = i.indrelid
	UNION ALL SELECT w.ev_class, 'pg_rewrite'::regclass, w.oid FROM pg_rewrite w JOIN relations r ON r.oid = w.ev_class
), owned_sequences AS (
	SELECT d.refobjid AS of, d.objid FROM pg_depend d JOIN relations r ON r.oid = d.refobjid JOIN pg_class s ON s.oid = d.objid
	 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') AND s.relkind = 'S'
), expressions AS (
	SELECT a.adrelid AS of, a.adbin::text AS tree FROM pg_attrdef a JOIN relations r ON r.oid = a.adrelid
	UNION ALL SELECT k.conrelid, k.conbin::text FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid WHERE k.conbin IS NOT NULL
	UNION ALL SELECT k.contypid, k.conbin::text FROM pg_constraint k JOIN types t ON t.oid = k.contypid WHERE k.conbin IS NOT NULL
	UNION ALL SELECT i.indrelid, concat(i.indexprs::text, ' ', i.indpred::text) FROM pg_index i JOIN relations r ON r.oid = i.indrelid
	UNION ALL SELECT t.oid, t.typdefaultbin::text FROM types t WHERE t.typdefaultbin IS NOT NULL
	UNION ALL SELECT w.ev_class, w.ev_action::text || w.ev_qual::text FROM pg_rewrite w JOIN relations r ON r.oid = w.ev_class
), called AS ( -- the functions in an expression: a constant's bytes are numbers, and names have their spaces escaped
	SELECT DISTINCT e.of, m[1]::oid AS fn FROM expressions e, regexp_matches(e.tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid|elemfuncid) (\d+)', 'g') m WHERE m[1] <> '0'
	UNION SELECT e.of, o.oprcode FROM expressions e, regexp_matches(e.tree, ':(?:opno|eqop|sortop) (\d+)', 'g') m JOIN pg_operator o ON o.oid = m[1]::oid
	UNION SELECT e.of, o.oprcode FROM expressions e, regexp_matches(e.tree, ':opnos \(o ([0-9 ]+)\)', 'g') m, regexp_split_to_table(m[1], ' ') n JOIN pg_operator o ON o.oid = n::oid
), nodes AS (
	SELECT DISTINCT e.of, m[1] AS node FROM expressions e, regexp_matches(e.tree, '\{([A-Z_]+)', 'g') m
), trusted_extensions AS (
	SELECT e.oid FROM pg_extension e WHERE pg_get_userbyid(e.extowner) !~ '^(hg_|hourgate_)'
), dependencies AS ( -- on what is not PostgreSQL's own; on an extension's members as on the extension
	SELECT p.of, d.refclassid, d.refobjid FROM parts p JOIN pg_depend d ON d.classid = p.classid AND d.objid = p.objid
	 WHERE d.refobjid >= 16384 AND NOT EXISTS (SELECT FROM parts q WHERE q.of = p.of AND q.classid = d.refclassid AND q.objid = d.refobjid)
	   AND NOT EXISTS (SELECT FROM rowtypes t WHERE t.of = p.of AND d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid)
	   AND NOT EXISTS (SELECT FROM pg_depend x JOIN trusted_extensions e ON e.oid = x.refobjid
	                    WHERE x.classid = d.refclassid AND x.objid = d.refobjid AND x.refclassid = 'pg_extension'::regclass AND x.deptype = 'e')
), references_ AS ( -- other tables, views, sequences and types; foreign keys in both directions
	SELECT DISTINCT s.of, s.oid FROM (
		SELECT d.of, coalesce(i.indrelid, CASE WHEN c.relkind = 'c' THEN c.reltype END, q.of, c.oid) AS oid
		  FROM dependencies d JOIN pg_class c ON c.oid = d.refobjid LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN owned_sequences q ON q.objid = c.oid
		 WHERE d.refclassid = 'pg_class'::regclass
		UNION ALL
		SELECT k.confrelid, k.conrelid FROM pg_constraint k JOIN relations r ON r.oid = k.confrelid WHERE k.contype = 'f'
		UNION ALL
		SELECT d.of, CASE WHEN c.relkind <> 'c' THEN c.oid ELSE e.oid END
		  FROM dependencies d JOIN pg_type t ON t.oid = d.refobjid JOIN pg_type e ON e.oid = CASE WHEN t.typelem <> 0 AND t.typlen = -1 THEN t.typelem ELSE t.oid END
		  LEFT JOIN pg_class c ON c.oid = e.typrelid
		 WHERE d.refclassid = 'pg_type'::regclass
	) s WHERE s.of <> s.oid
), schemas AS (
	SELECT o.of, n.oid, n.nspname, n.nspowner FROM (SELECT oid AS of, relnamespace AS nsp FROM relations UNION ALL SELECT oid, typnamespace FROM types) o JOIN pg_namespace n ON n.oid = o.nsp
), problems AS (
	SELECT r.oid AS of, 1 AS place, 'only tables, views and sequences are kept' AS problem FROM relations r WHERE r.relkind NOT IN ('r', 'v', 'S')
	UNION ALL SELECT r.oid, 1, 'is temporary' FROM relations r WHERE r.relpersistence = 't'
	UNION ALL SELECT r.oid, 2, 'belongs to a column of another table' FROM relations r JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass
	            WHERE r.relkind = 'S'
	UNION ALL SELECT t.oid, 1, 'only enums, domains and composite types are kept' FROM types t WHERE t.typtype NOT IN ('e', 'd', 'c')
	UNION ALL SELECT r.oid, 2, 'has a parent or children' FROM relations r JOIN pg_inherits i ON r.oid IN (i.inhrelid, i.inhparent)
	UNION ALL SELECT r.oid, 2, 'is of a type' FROM relations r WHERE r.reloftype <> 0
	UNION ALL SELECT r.oid, 3, 'has a trigger' FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
	UNION ALL SELECT r.oid, 3, 'has a rule' FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE r.relkind <> 'v' OR w.ev_type <> '1' OR w.rulename <> '_RETURN'
	UNION ALL SELECT r.oid, 3, 'has row-level security' FROM relations r WHERE r.relrowsecurity OR r.relforcerowsecurity OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = r.oid)
	UNION ALL SELECT k.conrelid, 3, 'has an exclusion constraint' FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid WHERE k.contype NOT IN ('c', 'f', 'p', 'u', 'n')
	UNION ALL SELECT r.oid, 3, 'has extended statistics' FROM relations r JOIN pg_statistic_ext s ON s.stxrelid = r.oid
	UNION ALL SELECT r.oid, 3, 'is published' FROM relations r JOIN pg_publication_rel p ON p.prrelid = r.oid
	UNION ALL SELECT t.of, 4, 'its type has a cast' FROM rowtypes t JOIN pg_cast c ON t.oid IN (c.castsource, c.casttarget) AND c.oid >= 16384
	UNION ALL SELECT t.of, 4, 'its type has an operator' FROM rowtypes t JOIN pg_operator o ON t.oid IN (o.oprleft, o.oprright) AND o.oid >= 16384 AND t.oid <> 0
	UNION ALL SELECT t.of, 4, 'its type has an operator class' FROM rowtypes t JOIN pg_opclass o ON o.opcintype = t.oid AND o.oid >= 16384
	UNION ALL SELECT t.of, 4, 'its type has a transform' FROM rowtypes t JOIN pg_transform f ON f.trftype = t.oid
	UNION ALL
	SELECT c.of, 5, 'calls ' || f.oid::regprocedure FROM called c JOIN pg_proc f ON f.oid = c.fn
	 WHERE NOT ((f.oid < 16384 AND f.pronamespace = 'pg_catalog'::regnamespace
	             OR EXISTS (SELECT FROM pg_depend x JOIN trusted_extensions e ON e.oid = x.refobjid
	                         WHERE x.classid = 'pg_proc'::regclass AND x.objid = f.oid AND x.refclassid = 'pg_extension'::regclass AND x.deptype = 'e'))
	            AND NOT f.prosecdef
	            AND (f.provolatile = 'i' OR f.provolatile = 's' AND f.oid < 16384 AND f.proname !~ '(_to_xml|xmlschema|^ts_stat|^pg_|^has_)'
	                 OR f.proname IN ('nextval', 'clock_timestamp', 'timeofday', 'random', 'gen_random_uuid', 'uuidv4', 'uuidv7', 'uuid_generate_v1', 'uuid_generate_v1mc', 'uuid_generate_v4')))
	UNION ALL
	SELECT n.of, 5, 'has an expression of a kind that is not known to be harmless (' || n.node || ')' FROM nodes n
	 WHERE n.node NOT IN ('CONST', 'VAR', 'FUNCEXPR', 'NAMEDARGEXPR', 'OPEXPR', 'DISTINCTEXPR', 'NULLIFEXPR', 'SCALARARRAYOPEXPR', 'BOOLEXPR', 'NULLTEST', 'BOOLEANTEST',
	                      'RELABELTYPE', 'COERCEVIAIO', 'ARRAYCOERCEEXPR', 'COLLATEEXPR', 'COLLATE', 'CASE', 'CASEEXPR', 'WHEN', 'CASEWHEN', 'CASETESTEXPR', 'ARRAY', 'ARRAYEXPR', 'ROW', 'ROWEXPR',
	                      'COALESCE', 'COALESCEEXPR', 'MINMAX', 'MINMAXEXPR', 'SQLVALUEFUNCTION', 'NEXTVALUEEXPR', 'SUBSCRIPTINGREF', 'COERCETODOMAIN', 'COERCETODOMAINVALUE', 'PARAM',
	                      'QUERY', 'RTE', 'RANGETBLENTRY', 'RTEPERMISSIONINFO', 'ALIAS', 'RANGETBLREF', 'FROMEXPR', 'JOINEXPR', 'TARGETENTRY', 'SORTGROUPCLAUSE', 'SUBLINK',
	                      'SETOPERATIONSTMT', 'AGGREF', 'GROUPINGFUNC', 'GROUPINGSET', 'WINDOWFUNC', 'WINDOWCLAUSE', 'COMMONTABLEEXPR', 'FIELDSELECT', 'ROWCOMPARE', 'ROWCOMPAREEXPR',
	                      'RANGETBLFUNCTION', 'NEXTVALUE')
	UNION ALL
	SELECT d.of, 6, 'depends on ' || coalesce(pg_describe_object(d.refclassid, d.refobjid, 0), d.refclassid::regclass || ' ' || d.refobjid) FROM dependencies d
	 WHERE d.refclassid NOT IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass, 'pg_constraint'::regclass)
	   AND NOT (d.refclassid = 'pg_proc'::regclass AND EXISTS (SELECT FROM called c WHERE c.of = d.of AND c.fn = d.refobjid)) -- judged above
	UNION ALL
	SELECT r.of, 7, 'reads ' || c.oid::regclass || ', which has row-level security' FROM references_ r JOIN relations v ON v.oid = r.of AND v.relkind = 'v'
	  JOIN pg_class c ON c.oid = r.oid WHERE c.relrowsecurity
	UNION ALL
	SELECT s.of, 8, 'the new owner may not create in schema ' || s.nspname FROM schemas s
	 WHERE NOT has_schema_privilege($2::oid, s.oid, 'CREATE') AND NOT (pg_get_userbyid(s.nspowner) = s.nspname AND s.nspname ~ '^hg_')
)
SELECT o.oid, o.kind, o.identity, quote_ident(s.nspname) AS schema,
       coalesce((SELECT p.problem FROM problems p WHERE p.of = o.oid ORDER BY p.place, p.problem LIMIT 1), '') AS problem,
       ARRAY(SELECT r.oid FROM references_ r
              WHERE r.of = o.oid
                AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.oid AND c.relowner = $2)
                AND NOT EXISTS (SELECT FROM pg_type t WHERE t.oid = r.oid AND t.typowner = $2 AND t.typrelid = 0)
              ORDER BY 1) AS needs
  FROM (SELECT oid, CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, oid::regclass::text AS identity FROM relations
        UNION ALL SELECT oid, CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, oid::regtype::text FROM types) o
  JOIN schemas s ON s.of = o.oid
 ORDER BY o.oid
