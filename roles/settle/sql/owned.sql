-- What the role with OID $1 owns in this database, the youngest first, since what depends on another is mostly younger. Not
-- large objects, of which there may be millions, and not default privileges, which are no objects.
--   type, identity: as pg_identify_object has them, identity quoted by the server. Of a procedure the arguments have their modes:
--   p(integer) may mean one with IN and one with OUT.
SELECT d.classid, d.objid, o.type,
       coalesce((SELECT format('FOR %I SERVER %I', u.usename, u.srvname) FROM pg_user_mappings u
                  WHERE d.classid = 'pg_user_mapping'::regclass AND u.umid = d.objid),
                (SELECT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
                   FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE d.classid = 'pg_proc'::regclass AND p.oid = d.objid AND p.prokind = 'p'), o.identity)
  FROM pg_shdepend d, pg_identify_object(d.classid, d.objid, d.objsubid) o
 WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = $1 AND d.deptype = 'o'
   AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND d.classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass) AND o.identity IS NOT NULL
 ORDER BY d.objid DESC LIMIT $2
