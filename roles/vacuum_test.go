package roles_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// Autovacuum that is inside a function of the tenant's, which an index calls and which writes for as long as it can, is out of it
// after the end: where it can be canceled, by getting in its way; where it can't, by whoever may terminate it, from 18 on.
func TestAutovacuumInsideTheTenantsCode(t *testing.T) {
	t.Parallel()
	for major, does := range map[int]struct{ right, handler string }{
		17: {"GRANT SET ON PARAMETER deadlock_timeout TO %s", ""},
		18: {"GRANT pg_signal_autovacuum_worker TO %s", "EXCEPTION WHEN query_canceled OR insufficient_privilege THEN NULL;"},
	} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{"autovacuum_naptime": "1s"}})
			st := newStage(t, server.Database(t))
			st.exec(t, fmt.Sprintf(does.right, st.db.Admin))
			st.begin(t, plot{tenant: []string{
				"CREATE TABLE public.av (i int) WITH (autovacuum_analyze_threshold = 1, autovacuum_analyze_scale_factor = 0)",
				`CREATE FUNCTION public.work() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
					FOR i IN 1..100000 LOOP BEGIN UPDATE public.orders SET note = 'vacuum' WHERE id = 9; PERFORM pg_sleep(0.05); ` + does.handler + ` END; END LOOP; RETURN 1; END $$`,
				`CREATE FUNCTION public.spin(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
					IF (SELECT usesysid FROM pg_stat_activity WHERE pid = pg_backend_pid()) IS NULL THEN PERFORM public.work(); END IF; RETURN $1; END $$`,
				"CREATE INDEX ON public.av (public.spin(i))", "INSERT INTO public.av SELECT generate_series(1, 1000)",
			}})
			inside := func() (n int) {
				if err := st.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = 'orders'::regclass AND usesysid IS NULL").Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			waitForLong(t, 90*time.Second, "autovacuum is inside", func() bool { return inside() > 0 })
			ended := time.Now()
			st.end(t, policy.Access{})
			st.aSecondAfter(t, ended)
			if n := inside(); n > 0 {
				t.Errorf("%d workers are inside", n)
			}
			// Where it handles neither its cancel nor being refused its next row, it may be over before it was looked for.
			if records := st.trail.of(audit.SessionInside); does.handler != "" && (len(records) == 0 || records[0].Detail["session_user"] != "autovacuum") {
				t.Errorf("got records %+v, want one of the worker", records)
			}
			st.letGo(t, plot{})
		})
	}
}
