package roles_test

import "github.com/hourgate/hourgate/policy"

// loops are plots with sessions: others' that are inside the tenant's code and leave no trace of it in the catalogs, others' temporary
// schemas, and sessions that the server opens to itself.
var loops = []plot{
	{
		name: "the tenant drops the function that bob is inside", tenant: []string{slowly},
		running: "SELECT HOME.slowly()", meanwhile: []string{"DROP FUNCTION slowly()"},
	},
	{
		name: "bob is in a transaction that has called a function by way of the tenant's", access: policy.Access{Roles: []string{"TEAM"}},
		before: []string{
			"SET ROLE OWNER", "CREATE TABLE public.loot AS SELECT 0 AS i", "CREATE FUNCTION public.guarded() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'UPDATE public.loot SET i = i + 1 RETURNING i'",
			"REVOKE ALL ON FUNCTION public.guarded() FROM PUBLIC", "GRANT EXECUTE ON FUNCTION public.guarded() TO TEAM", "RESET ROLE",
		},
		tenant: []string{"CREATE FUNCTION public.wrap() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT public.guarded()'"},
		bob:    []string{"BEGIN", "SELECT public.wrap()"}, after: []string{"SELECT public.wrap()", "COMMIT"},
	},
	{
		name: "bob is in a transaction that has counted with the tenant's code", tenant: []string{
			"CREATE FUNCTION number() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT nextval('public.orders_id_seq') $$",
		},
		bob: []string{"BEGIN", "SELECT HOME.number()"}, after: []string{"SELECT HOME.number()"},
	},
	{
		name: "parallel workers run the tenant's code",
		tenant: []string{
			`CREATE FUNCTION slowly() RETURNS int LANGUAGE plpgsql SECURITY DEFINER PARALLEL SAFE AS $$ BEGIN
				FOR i IN 1..600 LOOP PERFORM count(*) FROM public.orders; PERFORM pg_sleep(0.05); END LOOP; RETURN 1; END $$`,
			"CREATE TABLE many AS SELECT i FROM generate_series(1, 50000) i", "GRANT SELECT ON many TO PUBLIC",
		},
		before: []string{
			"ALTER ROLE BOB SET parallel_setup_cost = 0", "ALTER ROLE BOB SET parallel_tuple_cost = 0", "ALTER ROLE BOB SET min_parallel_table_scan_size = 0", "ALTER ROLE BOB SET parallel_leader_participation = off",
		},
		running: "SELECT count(*) FROM HOME.many WHERE HOME.slowly() = 1",
	},
	{
		name: "a view and a function of the profile in bob's temporary schema", access: policy.Access{Level: policy.ReadOnly},
		before: []string{"GRANT CREATE ON SCHEMA public TO PUBLIC"},
		tenant: []string{
			"SET ROLE PROFILE", `CREATE FUNCTION public.plant() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
				CREATE TEMPORARY VIEW tv AS SELECT * FROM public.customers; GRANT SELECT ON tv TO PUBLIC;
				CREATE FUNCTION pg_temp.tf() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'; END $$`,
		},
		bob: []string{"SELECT public.plant()"}, again: []string{"RESET ROLE", "REASSIGN OWNED BY ME TO PROFILE", "DROP FUNCTION public.plant()"},
		after: []string{"SELECT * FROM pg_temp.tv", "SELECT pg_temp.tf()"},
	},
	{
		name: "a foreign key of a table that others need", tenant: []string{
			"CREATE TABLE child (i int PRIMARY KEY REFERENCES public.orders)", "INSERT INTO child VALUES (20)", "GRANT SELECT ON child TO ALLY",
		},
		ally:  []string{"CREATE VIEW over AS SELECT * FROM HOME.child"},
		later: []string{"SET ROLE OWNER; DELETE FROM public.orders WHERE id = 20; RESET ROLE"},
	},
	{
		name: "an overload that others need", tenant: []string{"CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT upper($1::text)'"},
		ally:  []string{"CREATE VIEW over AS SELECT public.lower('x'::varchar)"},
		later: []string{"SET ROLE OWNER; SELECT lower('X'::varchar); RESET ROLE"},
	},
	{
		name: "connections of dblink to the server itself", before: []string{"CREATE EXTENSION dblink SCHEMA public"},
		tenant: []string{
			"ALTER ROLE ME PASSWORD 'mine'",
			"CREATE FUNCTION way() RETURNS text LANGUAGE sql AS $$ SELECT 'host=127.0.0.1 port=PORT dbname=DB user=ME password=mine' $$",
			"CREATE FUNCTION loop() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT * FROM public.dblink(HOME.way(), 'SELECT name FROM public.customers LIMIT 1') t(x text) $$",
			"SELECT public.dblink_connect('mine', way())", "SELECT public.dblink_send_query('mine', 'UPDATE public.orders SET note = ''dblink'' FROM pg_sleep(2) WHERE id = 8')",
			"SELECT public.dblink_connect('bobs', 'host=127.0.0.1 port=PORT dbname=DB user=BOB password=secret')",
			"SELECT public.dblink_send_query('bobs', 'SELECT HOME.loop() FROM pg_sleep(2)')",
		},
		bob: []string{
			"SELECT public.dblink_connect('c', HOME.way())", "SELECT public.dblink_connect('d', HOME.way())", "SELECT public.dblink_send_query('d', 'UPDATE public.orders SET note = ''dblink'' FROM pg_sleep(2) WHERE id = 9')",
			"BEGIN", "SELECT HOME.loop()",
		},
		after: []string{
			"SELECT * FROM public.dblink('c', 'SELECT name FROM public.customers LIMIT 1') t(x text)", "ROLLBACK", "SELECT public.dblink_connect('e', 'host=127.0.0.1 port=PORT dbname=DB user=ME password=mine')",
			"SELECT * FROM public.dblink_get_result('d') t(x text)",
		},
	},
	{
		name: "foreign tables in the server itself", before: []string{
			"CREATE EXTENSION postgres_fdw SCHEMA public", "CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port 'PORT', dbname 'DB')", "GRANT USAGE ON FOREIGN SERVER loop TO PUBLIC",
		},
		tenant: []string{
			"ALTER ROLE ME PASSWORD 'mine'", "CREATE USER MAPPING FOR CURRENT_USER SERVER loop OPTIONS (user 'ME', password 'mine')",
			"CREATE FOREIGN TABLE far (name text) SERVER loop OPTIONS (schema_name 'public', table_name 'customers')", "CREATE VIEW near AS SELECT * FROM far", "GRANT SELECT ON far, near TO PUBLIC",
		},
		bob:   []string{"CREATE USER MAPPING FOR CURRENT_USER SERVER loop OPTIONS (user 'ME', password 'mine')", "BEGIN", "SELECT count(*) FROM HOME.far", "SELECT count(*) FROM HOME.near"},
		after: []string{"SELECT count(*) FROM HOME.far", "SELECT count(*) FROM HOME.near", "ROLLBACK"},
	},
}
