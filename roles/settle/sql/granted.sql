-- On what the role with OID $1 was granted privileges in this database and on the server as a whole, with what GRANT calls it.
SELECT DISTINCT CASE d.classid WHEN 'pg_class'::regclass THEN 'TABLE' WHEN 'pg_proc'::regclass THEN 'ROUTINE'
            WHEN 'pg_namespace'::regclass THEN 'SCHEMA' WHEN 'pg_type'::regclass THEN 'TYPE' WHEN 'pg_language'::regclass THEN 'LANGUAGE'
            WHEN 'pg_database'::regclass THEN 'DATABASE' WHEN 'pg_tablespace'::regclass THEN 'TABLESPACE'
            WHEN 'pg_foreign_server'::regclass THEN 'FOREIGN SERVER' WHEN 'pg_foreign_data_wrapper'::regclass THEN 'FOREIGN DATA WRAPPER'
            WHEN 'pg_largeobject'::regclass THEN 'LARGE OBJECT' ELSE 'PARAMETER' END,
       coalesce((SELECT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
                   FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE d.classid = 'pg_proc'::regclass AND p.oid = d.objid AND p.prokind = 'p'), o.identity)
  FROM pg_shdepend d, pg_identify_object(d.classid, d.objid, 0) o
 WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND d.deptype = 'a'
   AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
   AND d.classid::regclass::text IN ('pg_class', 'pg_proc', 'pg_namespace', 'pg_type', 'pg_language', 'pg_database', 'pg_tablespace',
                                     'pg_foreign_server', 'pg_foreign_data_wrapper', 'pg_largeobject', 'pg_parameter_acl')
   AND o.identity IS NOT NULL
