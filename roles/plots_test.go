package roles_test

import "github.com/hourgate/hourgate/policy"

// plot is what a tenant does together with others so that something of its grant outlives it. ME is the tenant's role, ALLY the
// accomplice's, who has a grant of her own that goes on, BOB an ordinary login, TEAM a role that the tenant's grant names and
// of which MATE is an ordinary member, PROFILE and OWNER as in tricks. Statements that the server refuses on some majors are fine.
type plot struct {
	name    string
	access  policy.Access // default ADMIN
	before  []string      // as a superuser, before the tenant comes
	tenant  []string
	ally    []string // then, in a session of hers that stays
	bob     []string // then, in a session of his that stays
	behind  string   // then, by the ordinary member of TEAM in a session of his own: it waits for what bob holds
	mate    []string // then, in a session of an ordinary member of TEAM
	dba     []string // then, as a superuser
	again   []string // then, as the tenant once more
	running string   // bob runs it while the grant ends

	meanwhile []string // the tenant, once bob is inside what he runs
	after     []string // bob tries these in his old session after the end, and none may succeed
	fresh     []string // bob tries these in a new session after the end, and none may succeed
	later     []string // then, as a superuser: what others do some day
	mates     string   // a query of the superuser that must be true after the end: what belongs to others stays
	blocked   bool     // somebody keeps the tenant's things from being removed for as long as he likes
	tombstone bool     // … and it takes a sweep until they are tried again
}

const (
	leak   = `CREATE FUNCTION leak() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`
	steal  = `CREATE FUNCTION steal() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'UPDATE public.orders SET note = ''stolen'' WHERE id = 1 RETURNING note'`
	slowly = `CREATE FUNCTION slowly() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		FOR i IN 1..600 LOOP UPDATE public.orders SET note = 'slowly' WHERE id = 2; PERFORM pg_sleep(0.05); END LOOP; RETURN 1; END $$`
	window = `CREATE VIEW peep AS SELECT * FROM public.customers`
)

var opened = []string{"GRANT SELECT ON peep TO PUBLIC"}

// house makes what is made in the tenant's schema reachable for others.
const house = `DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO PUBLIC', current_schema()); EXCEPTION WHEN OTHERS THEN NULL; END $$`

var plots = []plot{
	{name: "alone: more than one statement drops, and an aggregate without arguments", tenant: []string{
		leak, steal, window, opened[0], `CREATE AGGREGATE nothing(*) (SFUNC = int8inc, STYPE = bigint, INITCOND = '0')`,
		`DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE many_%s (i int)', i); END LOOP; END $$`,
	}},
	{name: "alone: names that look like SQL", tenant: []string{
		leak, steal, `CREATE FUNCTION "AGGREGATE"() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
		`CREATE FUNCTION "a""b(c) RESTRICT; --"("x y" int) RETURNS int LANGUAGE sql AS 'SELECT 1'`, `CREATE TABLE "t;""'' x" ("FROM PUBLIC" int)`,
		`CREATE TYPE "AGGREGATE t" AS ("o'" int)`, `CREATE FUNCTION f("AGGREGATE t"[], VARIADIC int[]) RETURNS int LANGUAGE sql AS 'SELECT 1'`,
		`CREATE PROCEDURE "PROCEDURE"(INOUT i int) LANGUAGE sql AS 'SELECT 1'`,
	}, dba: []string{`DO $$ DECLARE f text := (SELECT string_agg(oid::regprocedure::text, '') FROM pg_proc WHERE proname = 'AGGREGATE'); BEGIN
		EXECUTE 'SET ROLE OWNER'; EXECUTE 'CREATE VIEW public.theirs AS SELECT ' || f || ' AS x'; EXECUTE 'RESET ROLE'; END $$`}},
	{name: "the accomplice holds a lock on the tenant's table", blocked: true, tenant: []string{
		leak, steal, window, opened[0], "CREATE TABLE held (i int)", "GRANT SELECT ON held TO PUBLIC",
	}, ally: []string{"BEGIN", "SELECT * FROM HOME.held"}},
	{name: "bob holds a lock on the tenant's table", blocked: true, tenant: []string{
		leak, steal, window, opened[0], "CREATE TABLE held (i int)", "GRANT SELECT ON held TO PUBLIC",
	}, bob: []string{"BEGIN", "SELECT * FROM HOME.held"}},
	{name: "the accomplice's temporary table calls the tenant's function", tenant: []string{
		leak, steal, "CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN UPDATE public.orders SET note = ''trig'' WHERE id = 3; RETURN NEW; END'",
	}, ally: []string{"CREATE TEMPORARY TABLE tmp (i int)", "CREATE TRIGGER t BEFORE INSERT ON tmp FOR EACH ROW EXECUTE FUNCTION HOME.trig()"}},
	{
		name: "bob is in a transaction that has called the tenant's code", tenant: []string{leak, steal, window, opened[0]},
		bob: []string{"BEGIN", "SELECT HOME.leak()"}, after: []string{"SELECT HOME.leak()", "SELECT * FROM HOME.peep"},
	},
	{
		name: "bob is in a transaction that has written with the tenant's code", tenant: []string{leak, steal},
		bob: []string{"BEGIN", "SELECT HOME.steal()"}, after: []string{"SELECT HOME.steal()", "COMMIT"},
	},
	{name: "bob runs the tenant's code", tenant: []string{leak, slowly}, running: "SELECT HOME.slowly()"},
	{
		name: "bob reads the tenant's view with a cursor", tenant: []string{window, opened[0]},
		bob: []string{"BEGIN", "DECLARE c CURSOR FOR SELECT * FROM HOME.peep", "FETCH 1 FROM c"}, after: []string{"FETCH 1 FROM c"},
	},
	{name: "the accomplice's view and foreign key depend on the tenant's", tenant: []string{
		leak, steal, "CREATE TABLE base (i int PRIMARY KEY)", "GRANT SELECT, REFERENCES ON base TO ALLY", "GRANT EXECUTE ON FUNCTION leak() TO BOB",
	}, ally: []string{"CREATE VIEW over AS SELECT i, HOME.leak() FROM HOME.base", "CREATE TABLE under (i int REFERENCES HOME.base)", "GRANT SELECT ON over TO PUBLIC"}},
	{
		name: "bob is a member of the tenant's role and holds its row", blocked: true, tenant: []string{leak, steal, window, opened[0], "GRANT ME TO BOB WITH ADMIN OPTION"},
		bob: []string{"SET ROLE ME", "BEGIN", "ALTER ROLE ME PASSWORD 'bobs'"},
	},
	{
		name: "bob acts as the profile by way of the tenant's role", tenant: []string{"GRANT ME TO BOB"},
		bob:   []string{"SET ROLE PROFILE", "SELECT count(*) FROM public.customers"},
		after: []string{"SELECT count(*) FROM public.customers", "UPDATE public.orders SET note = 'bob' WHERE id = 6"},
	},
	{
		name: "bob goes on as the tenant's role", tenant: []string{leak, steal, window, opened[0], "GRANT ME TO BOB"},
		bob:   []string{"SET ROLE ME"},
		after: []string{"SELECT count(*) FROM HOME.peep", "SELECT count(*) FROM public.customers", "CREATE TABLE HOME.another (i int)"},
	},
	{name: "the owner's objects are built on the tenant's", tenant: []string{
		leak, steal, "CREATE TYPE kind AS (i int)", "CREATE FUNCTION good(int) RETURNS bool LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN UPDATE public.orders SET note = 'good' WHERE id = 7; RETURN true; END $$",
		"CREATE DOMAIN checked AS int CHECK (good(VALUE))", "CREATE FUNCTION least_of(int, int) RETURNS int LANGUAGE sql AS 'SELECT least($1, $2)'",
		"CREATE AGGREGATE lowest(int) (SFUNC = least_of, STYPE = int)", "CREATE COLLATION coll FROM \"C\"", "CREATE SEQUENCE numbers",
	}, dba: []string{
		`DO $$ BEGIN EXECUTE 'SET ROLE OWNER'; EXECUTE 'CREATE TABLE public.built OF HOME.kind'; EXECUTE 'CREATE TABLE public.built2 (c HOME.checked, t text COLLATE HOME.coll, n int DEFAULT nextval(''HOME.numbers''))';
			EXECUTE 'CREATE VIEW public.built3 AS SELECT HOME.lowest(id) AS x FROM public.orders'; EXECUTE 'CREATE POLICY built4 ON public.built2 USING (HOME.good(1))';
			EXECUTE 'CREATE INDEX ON public.built2 ((HOME.least_of(n, 1)))'; EXECUTE 'GRANT SELECT, INSERT ON public.built2, public.built3 TO PUBLIC'; EXECUTE 'RESET ROLE'; END $$`,
	}, bob: []string{"SELECT HOME.good(1)"}, after: []string{"INSERT INTO public.built2 (c) VALUES (1)", "SELECT HOME.good(1)"}},
	{name: "objects of the profile, and somebody holds a lock on them", blocked: true, access: policy.Access{Level: policy.ReadOnly}, tenant: []string{
		"SET ROLE PROFILE", `CREATE FUNCTION public.leak() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
		`CREATE VIEW public.peep AS SELECT * FROM public.customers`, "GRANT SELECT ON public.peep TO PUBLIC", `CREATE AGGREGATE public.nothing(*) (SFUNC = int8inc, STYPE = bigint, INITCOND = '0')`,
		"CREATE TABLE public.held (i int)", "GRANT SELECT ON public.held TO PUBLIC",
	}, bob: []string{"BEGIN", "SELECT * FROM public.held"}},
	{name: "objects handed to the profile", tenant: []string{leak, steal, window, opened[0], "REASSIGN OWNED BY ME TO PROFILE"}},
	{name: "prepared as itself, holding its own row", tenant: []string{leak, "BEGIN", "ALTER ROLE ME PASSWORD 'p'", "PREPARE TRANSACTION 'row ME'"}},
	{name: "prepared as the profile", tenant: []string{"SET ROLE PROFILE", "BEGIN", "UPDATE public.orders SET note = 'prepared' WHERE id = 4", "PREPARE TRANSACTION 'profile ME'"}},
	{name: "prepared as the named role", access: policy.Access{Roles: []string{"TEAM"}}, tenant: []string{
		"SET ROLE TEAM", "BEGIN", "UPDATE public.orders SET note = 'prepared' WHERE id = 5", "PREPARE TRANSACTION 'team ME'",
	}},
	{
		name: "objects of the named role, of which others are members", access: policy.Access{Roles: []string{"TEAM"}}, tenant: []string{
			"SET ROLE TEAM", `CREATE FUNCTION public.leak() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
			"CREATE VIEW public.peep AS SELECT * FROM public.customers", "GRANT SELECT ON public.peep TO PUBLIC", "ALTER ROLE TEAM SET search_path = 'mine'", "ALTER ROLE TEAM PASSWORD 'x'",
			"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
		}, dba: []string{"GRANT TEAM TO MATE"}, mate: []string{"SET ROLE TEAM", "CREATE TABLE public.mates (i int)", "INSERT INTO public.mates VALUES (1), (2)"},
		mates: "SELECT to_regclass('public.mates') IS NULL OR (SELECT count(*) = 2 FROM public.mates)",
	},
	{
		name: "privileges on columns of the profile's view, and bob holds a lock on it", blocked: true, tenant: []string{
			"CREATE VIEW peep AS SELECT * FROM public.customers", "GRANT SELECT (name) ON peep TO PUBLIC", "GRANT USAGE, CREATE ON SCHEMA HOME TO PROFILE",
			"ALTER VIEW peep OWNER TO PROFILE", "REASSIGN OWNED BY ME TO PROFILE", "SET ROLE PROFILE", "CREATE VIEW public.peep AS SELECT * FROM public.customers", "GRANT SELECT (name) ON public.peep TO PUBLIC",
		}, bob: []string{"BEGIN", "SELECT count(name) FROM HOME.peep"},
		fresh: []string{"SELECT name FROM public.peep", "SELECT name FROM HOME.peep"},
	},
	{
		name: "default privileges of the named role", access: policy.Access{Roles: []string{"TEAM"}}, dba: []string{"GRANT TEAM TO MATE"}, again: []string{
			"ALTER DEFAULT PRIVILEGES FOR ROLE TEAM GRANT ALL ON TABLES TO PUBLIC", "ALTER DEFAULT PRIVILEGES FOR ROLE TEAM IN SCHEMA public GRANT ALL ON FUNCTIONS TO BOB",
			"ALTER DEFAULT PRIVILEGES FOR ROLE PARENT GRANT ALL ON TABLES TO BOB",
		}, later: []string{"SET ROLE TEAM; CREATE TABLE public.next AS SELECT 1 AS i; RESET ROLE"},
		mates: "SELECT NOT has_table_privilege('BOB', 'public.next', 'SELECT')",
	},
	{
		name: "what others made as the named role is made anew", access: policy.Access{Roles: []string{"TEAM"}}, dba: []string{"GRANT TEAM TO MATE"},
		mate: []string{
			"SET ROLE TEAM", "CREATE FUNCTION public.tool() RETURNS text LANGUAGE sql AS 'SELECT 1::text'", "CREATE VIEW public.shown AS SELECT 1::text AS name",
			"CREATE TABLE public.mates (i int)", "INSERT INTO public.mates VALUES (1), (2)",
		},
		again: []string{
			"CREATE OR REPLACE FUNCTION public.tool() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'",
			"CREATE OR REPLACE VIEW public.shown AS SELECT name FROM public.customers", "GRANT SELECT ON public.shown, public.mates TO BOB", "GRANT UPDATE (i) ON public.mates TO PUBLIC",
		},
		fresh: []string{"SELECT public.tool()", "SELECT * FROM public.shown", "SELECT * FROM public.mates", "UPDATE public.mates SET i = 3"},
		mates: "SELECT count(*) = 2 FROM public.mates",
	},
	{
		name: "objects of a role that the named role is a member of", access: policy.Access{Roles: []string{"TEAM"}}, tenant: []string{
			"SET ROLE PARENT", `CREATE FUNCTION public.leak() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
			"CREATE VIEW public.peep AS SELECT * FROM public.customers", "GRANT SELECT ON public.peep TO PUBLIC",
		},
	},
	{
		name: "the profile's functions are where the admin may not look", before: []string{
			"CREATE SCHEMA bobs AUTHORIZATION BOB", "CREATE TYPE bobs.t AS (i int)", "GRANT USAGE, CREATE ON SCHEMA bobs TO PUBLIC",
		}, tenant: []string{
			"SET ROLE PROFILE", `CREATE FUNCTION bobs.leak() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
			`CREATE FUNCTION public.leak(x bobs.t DEFAULT NULL) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
			"CREATE VIEW bobs.peep AS SELECT * FROM public.customers", "GRANT SELECT ON bobs.peep TO PUBLIC",
		}, dba: []string{"SET ROLE BOB; REVOKE ALL ON SCHEMA bobs FROM PUBLIC; RESET ROLE"},
		fresh: []string{"SELECT bobs.leak()", "SELECT public.leak()", "SELECT * FROM bobs.peep"},
	},
	{
		name: "an index has bob's function run as the named role", access: policy.Access{Roles: []string{"TEAM"}}, before: []string{
			"CREATE SCHEMA bobs AUTHORIZATION BOB", "GRANT USAGE ON SCHEMA bobs TO PUBLIC", "CREATE TABLE bobs.loot (name text)", "GRANT INSERT ON bobs.loot TO PUBLIC",
			"CREATE FUNCTION bobs.take() RETURNS void LANGUAGE sql AS 'INSERT INTO bobs.loot SELECT name FROM public.customers'",
			`CREATE FUNCTION bobs.spy(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM bobs.take(); RETURN $1; EXCEPTION WHEN OTHERS THEN RETURN $1; END'`,
			"GRANT TEAM TO MATE",
		},
		mate:  []string{"SET ROLE TEAM", "CREATE TABLE public.mates AS SELECT i FROM generate_series(1, 9) i"},
		again: []string{"CREATE INDEX ON public.mates (bobs.spy(i))"},
		later: []string{"TRUNCATE bobs.loot", "ANALYZE public.mates"},
		mates: "SELECT (SELECT count(*) FROM bobs.loot) = 0 AND (SELECT count(*) FROM public.mates) = 9",
	},
	{name: "all kinds of objects, and bob holds a lock on one", blocked: true, tenant: []string{
		leak, steal, "CREATE TYPE mood AS ENUM ('good')", "CREATE DOMAIN d AS int CHECK (VALUE > 0)", "CREATE SEQUENCE sq", "CREATE TABLE held (i serial PRIMARY KEY, m mood, d d)", "GRANT SELECT ON held TO PUBLIC",
		"CREATE MATERIALIZED VIEW mv AS SELECT * FROM public.customers", "GRANT SELECT ON mv TO PUBLIC", "CREATE STATISTICS st ON i, d FROM held", `CREATE COLLATION coll FROM "C"`,
		"CREATE CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8", "CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = simple)", "CREATE TEXT SEARCH CONFIGURATION cfg (COPY = simple)",
		"CREATE PUBLICATION pub", "SELECT lo_create(0) FROM generate_series(1, 700)", "CREATE FUNCTION eq(mood, mood) RETURNS bool LANGUAGE sql AS 'SELECT true'",
		"CREATE OPERATOR === (LEFTARG = mood, RIGHTARG = mood, FUNCTION = eq)", "CREATE CAST (mood AS text) WITH INOUT AS ASSIGNMENT", "CREATE OPERATOR FAMILY fam USING btree",
		"CREATE RULE r AS ON INSERT TO held DO ALSO NOTHING", "CREATE SCHEMA another", "CREATE TABLE parted (i int) PARTITION BY LIST (i)", "CREATE TABLE part PARTITION OF parted DEFAULT",
	}, bob: []string{"BEGIN", "SELECT * FROM HOME.held"}},
}
