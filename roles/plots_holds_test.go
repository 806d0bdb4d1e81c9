package roles_test

import "github.com/hourgate/hourgate/policy"

// holds are plots in which others hold what the end needs: rows of the profile and of what it owns, by way of the tenant's code, in
// a transaction that stays open; Hourgate's lock; triggers that call the tenant's functions; and an order in which nothing can be
// dropped.
const (
	asProfile = "SET ROLE PROFILE"
	toProfile = "REASSIGN OWNED BY ME TO PROFILE" // where SET ROLE is refused, on unpatched servers
	shared    = "CREATE FUNCTION public.leak() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'"
	plant     = `CREATE FUNCTION public.plant() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		CREATE FUNCTION public.leak2() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN (SELECT name FROM public.customers LIMIT 1); END'; END $$`
	everybody = "GRANT CREATE ON SCHEMA public TO PUBLIC"
	unkept    = "SELECT NOT EXISTS (SELECT FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid WHERE r.rolname ~ '^hourgate_quarantine' AND d.deptype = 'o' AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)

var holds = []plot{
	{
		name: "bob has made a function of the profile and does not commit", before: []string{everybody}, tenant: []string{asProfile, plant, "RESET ROLE", toProfile},
		bob: []string{"BEGIN", "SELECT public.plant()"}, again: []string{asProfile, "DROP FUNCTION public.plant()"}, after: []string{"COMMIT; SELECT 1/0"}, fresh: []string{"SELECT public.leak2()"},
	},
	{
		name: "bob has made a function of the named role and does not commit", access: policy.Access{Roles: []string{"TEAM"}}, before: []string{"GRANT TEAM TO MATE"},
		tenant: []string{"SET ROLE TEAM", plant}, bob: []string{"BEGIN", "SELECT public.plant()"}, after: []string{"COMMIT; SELECT 1/0"}, fresh: []string{"SELECT public.leak2()"},
	},
	{
		name: "bob holds the row of a function of the profile", before: []string{everybody}, blocked: true, tenant: []string{
			asProfile, shared, "CREATE FUNCTION public.hold() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN ALTER FUNCTION public.leak() COST 7; END'", "RESET ROLE", toProfile,
		}, bob: []string{"BEGIN", "SELECT public.hold()"}, fresh: []string{"SELECT public.leak()"},
	},
	{
		name: "bob holds the row of a function of the named role", access: policy.Access{Roles: []string{"TEAM"}}, before: []string{"GRANT TEAM TO MATE"}, blocked: true, tenant: []string{
			"SET ROLE TEAM", shared, "CREATE FUNCTION public.hold() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN ALTER FUNCTION public.leak() COST 7; END'",
		}, bob: []string{"BEGIN", "SELECT public.hold()"}, fresh: []string{"SELECT public.leak()"},
	},
	{
		name: "bob holds the row of a view of the profile", before: []string{everybody}, blocked: true, tenant: []string{
			asProfile, "CREATE VIEW public.peep AS SELECT * FROM public.customers", "GRANT SELECT ON public.peep TO PUBLIC",
			"CREATE FUNCTION public.hold() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN GRANT INSERT ON public.peep TO PUBLIC; END'", "RESET ROLE", toProfile,
		}, bob: []string{"BEGIN", "SELECT public.hold()"}, fresh: []string{"SELECT * FROM public.peep"},
	},
	{
		name: "bob holds the row of a view of the profile, and somebody waits for it", before: []string{everybody}, blocked: true, tenant: []string{
			asProfile, "CREATE VIEW public.peep AS SELECT * FROM public.customers", "GRANT SELECT ON public.peep TO PUBLIC",
			"CREATE FUNCTION public.hold() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN GRANT INSERT ON public.peep TO PUBLIC; END'", "RESET ROLE", toProfile,
		}, bob: []string{"BEGIN", "SELECT public.hold()"}, behind: "SELECT public.hold()", fresh: []string{"SELECT * FROM public.peep"},
	},
	{
		name: "bob holds the row of a function of the named role, and one of its members waits for it", access: policy.Access{Roles: []string{"TEAM"}}, before: []string{"GRANT TEAM TO MATE"},
		blocked: true, tenant: []string{
			"SET ROLE TEAM", shared, "CREATE FUNCTION public.hold() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN ALTER FUNCTION public.leak() COST 7; END'",
		}, bob: []string{"BEGIN", "SELECT public.hold()"}, behind: "ALTER FUNCTION public.leak() COST 8", fresh: []string{"SELECT public.leak()"},
	},
	{
		name: "bob holds the row of the profile", before: []string{everybody}, blocked: true, tenant: []string{
			asProfile, shared, "CREATE FUNCTION public.hold() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN ALTER ROLE CURRENT_USER PASSWORD 'x'; END $$", "RESET ROLE", toProfile,
		}, bob: []string{"BEGIN", "SELECT public.hold()"}, fresh: []string{"SELECT public.leak()"},
	},
	{
		name: "bob holds hourgate's lock, and the named role has many functions", access: policy.Access{Roles: []string{"TEAM"}}, before: []string{"GRANT TEAM TO MATE"}, blocked: true,
		tenant: []string{"SET ROLE TEAM", `DO $$ BEGIN FOR i IN 1..30 LOOP
			EXECUTE format('CREATE FUNCTION public.leak_%s() RETURNS text LANGUAGE sql SECURITY DEFINER AS ''SELECT name FROM public.customers LIMIT 1''', i); END LOOP; END $$`},
		bob: []string{"SELECT pg_advisory_lock(7525362636580549733)"},
	},
	{
		name: "the older views depend on the younger ones", tenant: []string{`DO $$ BEGIN
			FOR i IN 1..300 LOOP EXECUTE format('CREATE VIEW chain_%s AS SELECT 1 AS i', i); END LOOP;
			FOR i IN 2..300 LOOP EXECUTE format('CREATE OR REPLACE VIEW chain_%s AS SELECT i FROM chain_%s', i - 1, i); END LOOP; END $$`}, mates: unkept,
	},
	{
		name: "many objects, and some in circles", tenant: []string{
			"DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE many_%s (i int)', i); END LOOP; END $$",
			"CREATE TABLE ring (i int)", "CREATE FUNCTION f(ring) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'", "ALTER TABLE ring ADD CHECK (f(ring) = 1)",
			"CREATE VIEW c1 AS SELECT 1 AS i", "CREATE FUNCTION c2() RETURNS SETOF c1 LANGUAGE sql AS 'SELECT 1'", "CREATE OR REPLACE VIEW c1 AS SELECT i FROM c2()", "CREATE VIEW c3 AS SELECT * FROM c1",
		}, mates: unkept,
	},
	{
		name: "an event trigger calls the tenant's function", before: []string{"CREATE TABLE public.loot (who text)", "GRANT INSERT ON public.loot TO PUBLIC"}, blocked: true,
		tenant: []string{"CREATE FUNCTION etf() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.loot VALUES (current_user); END'"},
		dba:    []string{"CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION HOME.etf()"},
		later:  []string{"TRUNCATE public.loot", "CREATE TABLE public.something (i int)"}, mates: "SELECT NOT EXISTS (SELECT FROM public.loot)",
	},
	{
		name: "a trigger that the admin can't drop calls the tenant's function", blocked: true, tombstone: true, before: []string{
			"CREATE TABLE public.loot (who text)", "GRANT INSERT ON public.loot TO PUBLIC", "CREATE TABLE public.supers (i int)", "GRANT TRIGGER ON public.supers TO PUBLIC",
		},
		tenant: []string{
			"CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.loot VALUES (current_user); NEW.i := 7; RETURN NEW; END'",
			"CREATE TRIGGER t BEFORE INSERT OR DELETE ON public.supers FOR EACH ROW EXECUTE FUNCTION tf()", "CREATE TRIGGER u AFTER INSERT ON public.supers EXECUTE FUNCTION tf()",
		},
		later: []string{"INSERT INTO public.supers VALUES (1), (2); DELETE FROM public.supers WHERE i = 2"}, mates: "SELECT NOT EXISTS (SELECT FROM public.loot) AND (SELECT sum(i) = 1 FROM public.supers)",
	},
	{
		name: "bob holds the owner's table, on which a trigger calls the tenant's function", blocked: true,
		before: []string{"CREATE TABLE public.loot (who text)", "GRANT INSERT ON public.loot TO PUBLIC", "GRANT TRIGGER ON public.orders TO PUBLIC", "GRANT SELECT ON public.orders TO BOB"},
		tenant: []string{
			"CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.loot VALUES (current_user); RETURN NULL; END'",
			"CREATE TRIGGER t BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION tf()",
		},
		bob:   []string{"BEGIN", "SELECT count(*) FROM public.orders"},
		later: []string{"SET ROLE OWNER; UPDATE public.orders SET id = 1000 WHERE id = 20; RESET ROLE"}, mates: "SELECT NOT EXISTS (SELECT FROM public.loot) AND EXISTS (SELECT FROM public.orders WHERE id = 1000)",
	},
	{
		name: "somebody gave the role attributes, and bob holds the row of its function", blocked: true,
		tenant: []string{
			"CREATE FUNCTION mk() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN EXECUTE 'CREATE ROLE made_' || pg_backend_pid(); RETURN current_user; END $$",
			"CREATE FUNCTION hold() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN ALTER FUNCTION HOME.mk() COST 7; END'",
		},
		dba: []string{"ALTER ROLE ME CREATEROLE CREATEDB"}, bob: []string{"BEGIN", "SELECT HOME.hold()"}, fresh: []string{"SELECT HOME.mk()"},
	},
	{
		name: "prepared as the named role, which is dangerous", access: policy.Access{Roles: []string{"TEAM"}, Dangerous: true}, tenant: []string{
			"SET ROLE TEAM", "BEGIN", "UPDATE public.orders SET note = 'prepared' WHERE id = 5", "PREPARE TRANSACTION 'danger ME'",
		},
	},
	{
		name: "a dba's event trigger forbids all drops", blocked: true, tombstone: true, before: []string{
			everybody, "CREATE FUNCTION public.nodrop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no drops here'; END $$",
			"CREATE EVENT TRIGGER nodrop ON sql_drop EXECUTE FUNCTION public.nodrop()",
		},
		tenant: []string{asProfile, shared, "CREATE VIEW public.peep AS SELECT * FROM public.customers", "GRANT SELECT ON public.peep TO PUBLIC", "RESET ROLE", toProfile, leak, window, opened[0]},
		fresh:  []string{"SELECT public.leak()", "SELECT * FROM public.peep"}, later: []string{"DROP EVENT TRIGGER nodrop"},
	},
}
