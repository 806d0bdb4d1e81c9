package roles_test

import (
	"strings"

	"github.com/hourgate/hourgate/policy"
)

// kinds are plots with kinds of objects that are rare, with names that are, and with what a named role allows to make.
var kinds = []plot{
	{
		// p(integer) means both, so that neither DROP nor ALTER takes it.
		name: "procedures of the profile that only the modes of their arguments tell apart", access: policy.Access{Level: policy.ReadOnly},
		before: []string{"GRANT CREATE ON SCHEMA public TO PUBLIC"},
		tenant: []string{
			"SET ROLE PROFILE",
			"CREATE PROCEDURE public.p(IN i int DEFAULT 1, INOUT name text DEFAULT '') LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'",
			"CREATE PROCEDURE public.p(OUT i int, INOUT name text) LANGUAGE sql SECURITY DEFINER AS 'SELECT 1, name FROM public.customers LIMIT 1'",
		},
		fresh: []string{"CALL public.p(1, 'x')", "CALL public.p(name => 'x')"},
	},
	{name: "a range, and somebody has columns of it and of its multirange", tenant: []string{
		leak, "CREATE TYPE span AS RANGE (SUBTYPE = int)", "CREATE TYPE span2 AS RANGE (SUBTYPE = int, MULTIRANGE_TYPE_NAME = spans2)",
	}, dba: []string{`DO $$ BEGIN EXECUTE 'SET ROLE OWNER'; EXECUTE 'CREATE TABLE public.spans (r HOME.span)'; EXECUTE 'CREATE TABLE public.spans2 (r HOME.spans2)'; EXECUTE 'RESET ROLE'; END $$`}},
	{
		name: "foreign servers, with user mappings of others and of everybody", access: policy.Access{Roles: []string{"TEAM"}},
		before: []string{"CREATE FOREIGN DATA WRAPPER w", "GRANT USAGE ON FOREIGN DATA WRAPPER w TO TEAM", "GRANT CREATE ON DATABASE DB TO TEAM"},
		tenant: []string{
			"CREATE SCHEMA mine", "CREATE SERVER s FOREIGN DATA WRAPPER w", "GRANT USAGE ON FOREIGN SERVER s TO PUBLIC", "CREATE USER MAPPING FOR PUBLIC SERVER s", "CREATE USER MAPPING FOR BOB SERVER s",
			"CREATE USER MAPPING FOR CURRENT_USER SERVER s", "CREATE FOREIGN TABLE mine.ft (i int) SERVER s", "GRANT SELECT ON mine.ft TO PUBLIC",
		},
		later: []string{"DO $$ BEGIN IF EXISTS (SELECT FROM pg_foreign_server) THEN RAISE 'a server is left'; END IF; END $$"},
	},
	{
		name: "subscriptions and publications", access: policy.Access{Roles: []string{"TEAM"}},
		before: []string{"GRANT CREATE ON DATABASE DB TO TEAM", "DO $$ BEGIN GRANT pg_create_subscription TO TEAM; EXCEPTION WHEN OTHERS THEN NULL; END $$"},
		tenant: []string{
			"CREATE SUBSCRIPTION idle CONNECTION 'host=127.0.0.1 dbname=DB user=x password=y' PUBLICATION p WITH (connect = false)",
			"CREATE SUBSCRIPTION busy CONNECTION 'host=127.0.0.1 dbname=DB user=x password=y' PUBLICATION p WITH (connect = false, slot_name = 'mine')", "ALTER SUBSCRIPTION busy ENABLE",
			"CREATE PUBLICATION pub", "CREATE TABLE public.t (i int)", "CREATE PUBLICATION pub2 FOR TABLE public.t", "SELECT pg_create_logical_replication_slot('slot', 'pgoutput')",
		},
		later: []string{"DO $$ BEGIN IF EXISTS (SELECT FROM pg_subscription) OR EXISTS (SELECT FROM pg_publication) OR EXISTS (SELECT FROM pg_replication_slots) THEN RAISE 'replication is left'; END IF; END $$"},
	},
	{
		name: "extensions, with the tenant's function as a member", access: policy.Access{Roles: []string{"TEAM"}}, before: []string{"GRANT CREATE ON DATABASE DB TO TEAM"},
		tenant: []string{
			"CREATE SCHEMA mine", "CREATE EXTENSION hstore SCHEMA mine", "CREATE EXTENSION citext SCHEMA public",
			"CREATE FUNCTION public.leak() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'", "ALTER EXTENSION hstore ADD FUNCTION public.leak()",
			"CREATE FUNCTION public.leak2() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'", "ALTER FUNCTION public.leak2() DEPENDS ON EXTENSION citext",
			"ALTER EXTENSION plpgsql ADD FUNCTION public.leak2()",
		},
		later: []string{"DO $$ BEGIN IF EXISTS (SELECT FROM pg_extension WHERE extname <> 'plpgsql') THEN RAISE 'an extension is left'; END IF; END $$"},
	},
	{
		name: "an extension, which somebody needs", access: policy.Access{Roles: []string{"TEAM"}}, before: []string{"GRANT CREATE ON DATABASE DB TO TEAM"},
		tenant: []string{
			"CREATE EXTENSION citext SCHEMA public", "CREATE FUNCTION public.leak() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'",
			"ALTER EXTENSION citext ADD FUNCTION public.leak()", "CREATE TABLE public.held (c citext)",
		},
		dba:   []string{"CREATE TABLE public.needs (c public.citext)", "INSERT INTO public.needs VALUES ('x')"},
		mates: "SELECT count(*) = 1 FROM public.needs",
	},
	{
		name: "names that are hard to write, and somebody holds a lock", blocked: true,
		tenant: []string{
			leak, `CREATE FUNCTION "count"() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
			`CREATE FUNCTION "select"("all" "char", "int4[]" int[]) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
			`CREATE TYPE "int4[]" AS (i int)`, `CREATE TYPE "numeric(10,2)" AS ENUM ('a''b', 'ü')`, `CREATE TYPE "public.orders" AS ("a b" int)`, `CREATE DOMAIN "PUBLIC" AS int CHECK (VALUE > 0)`,
			`CREATE FUNCTION "` + strings.Repeat("ü", 31) + `"(x "int4[]", VARIADIC y "numeric(10,2)"[]) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'`,
			"CREATE TABLE \"a\nb\tc\\d;--/*\" (\"x\ny\" int DEFAULT 1)", "GRANT SELECT (\"x\ny\") ON \"a\nb\tc\\d;--/*\" TO PUBLIC", `CREATE VIEW "pg_temp" AS SELECT * FROM public.customers`, `GRANT SELECT ON "pg_temp" TO PUBLIC`,
			`CREATE SEQUENCE "ME"`, `CREATE TABLE "public" (i int)`, `CREATE TABLE "CURRENT_USER" (i int)`, `CREATE VIEW "$user" AS SELECT * FROM public.customers`, `GRANT SELECT ON "$user" TO PUBLIC`,
			`CREATE FUNCTION feq("int4[]", "int4[]") RETURNS bool LANGUAGE sql AS 'SELECT true'`, `CREATE OPERATOR @#@ (LEFTARG = "int4[]", RIGHTARG = "int4[]", FUNCTION = feq)`,
			`CREATE FUNCTION feq1("int4[]") RETURNS bool LANGUAGE sql AS 'SELECT true'`, `CREATE OPERATOR !@# (RIGHTARG = "int4[]", FUNCTION = feq1)`, `CREATE OPERATOR !@# (LEFTARG = "int4[]", FUNCTION = feq1)`,
			`CREATE AGGREGATE "agg *"(int ORDER BY int) (SFUNC = int4pl, STYPE = int)`, `CREATE AGGREGATE "agg *"(VARIADIC int[]) (SFUNC = array_cat, STYPE = int[])`,
			`CREATE TEXT SEARCH CONFIGURATION "cf.g""" (COPY = simple)`, `CREATE COLLATION "c.o" FROM "C"`, `CREATE CONVERSION "co""n" FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8`,
			`CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`, `CREATE TRIGGER "t r""g" BEFORE INSERT ON "public" FOR EACH ROW EXECUTE FUNCTION tr()`,
			`CREATE TABLE held (i int, d "PUBLIC", e "numeric(10,2)")`, `CREATE STATISTICS "s.t""" ON i, d FROM held`, "GRANT SELECT ON held TO PUBLIC",
		},
		bob: []string{"BEGIN", "SELECT * FROM HOME.held"},
	},
	{
		name: "a check has bob's function run as the named role", access: policy.Access{Roles: []string{"TEAM"}}, before: []string{
			"CREATE SCHEMA bobs AUTHORIZATION BOB", "GRANT USAGE ON SCHEMA bobs TO PUBLIC", "CREATE TABLE bobs.loot (name text)", "GRANT INSERT ON bobs.loot TO PUBLIC",
			"CREATE FUNCTION bobs.spy(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO bobs.loot SELECT name FROM public.customers; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END'",
			"GRANT TEAM TO MATE",
		},
		mate:  []string{"SET ROLE TEAM", "CREATE TABLE public.mates AS SELECT i FROM generate_series(1, 9) i", "CREATE TABLE public.plain AS SELECT i FROM generate_series(1, 9) i"},
		again: []string{"ALTER TABLE public.mates ADD CHECK (bobs.spy(i))"},
		later: []string{"TRUNCATE bobs.loot; SET ROLE TEAM; DO $$ BEGIN INSERT INTO public.mates VALUES (10); EXCEPTION WHEN insufficient_privilege THEN NULL; END $$; INSERT INTO public.plain VALUES (10); RESET ROLE"},
		mates: "SELECT (SELECT count(*) FROM bobs.loot) = 0 AND (SELECT count(*) FROM public.mates) = 9 AND (SELECT count(*) FROM public.plain) = 10",
	},
}
