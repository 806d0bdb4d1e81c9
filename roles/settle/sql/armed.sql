-- What of the role with OID $1 in this database gives others something: routines that act as their owner, and privileges on
-- relations, their columns, and routines for anybody but the owner. REVOKE ON TABLE takes those on columns, too.
--   kind, identity: as GRANT and ALTER have them, see owned.sql; grantee: NULL for PUBLIC; definer: no grantee, the routine acts as its owner
--   $2 whether routines count: those of a role without power do nothing for others
WITH owned AS (
	SELECT 'pg_class'::regclass AS class, oid, relacl AS acl, false AS definer FROM pg_class
	 WHERE relowner = $1 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relacl IS NOT NULL
	UNION ALL
	SELECT 'pg_class'::regclass, c.oid, a.attacl, false FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	 WHERE c.relowner = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attacl IS NOT NULL
	UNION ALL
	SELECT 'pg_proc'::regclass, oid, coalesce(proacl, acldefault('f', proowner)), prosecdef FROM pg_proc WHERE proowner = $1 AND $2
)
SELECT DISTINCT CASE class WHEN 'pg_class'::regclass THEN 'TABLE' ELSE 'ROUTINE' END,
       coalesce((SELECT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
                   FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE owned.class = 'pg_proc'::regclass AND p.oid = owned.oid AND p.prokind = 'p'), i.identity), g.grantee, g.definer
  FROM owned, LATERAL pg_identify_object(class, oid, 0) i,
       LATERAL (SELECT DISTINCT CASE WHEN x.grantee <> 0 THEN pg_get_userbyid(x.grantee)::text END, false FROM aclexplode(acl) x WHERE x.grantee <> $1
                UNION ALL SELECT NULL, true WHERE owned.definer) g(grantee, definer)
 WHERE i.identity IS NOT NULL
