package roles_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// racer is somebody who runs statements in circles, over a connection that he opens again when it is closed, if he can.
type racer struct {
	who        string
	statements []string
	conn       *pgx.Conn
	next       int
}

const racerLeak = "RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT name FROM public.customers LIMIT 1'"

// racers are the tenant, also in a transaction that commits late, bob as a member of the tenant's role and as its profile, and the
// accomplice. %d is another number each time.
func racers() []*racer {
	return []*racer{
		{who: "ME", statements: []string{
			"CREATE FUNCTION race_%d() " + racerLeak, "GRANT ME TO BOB WITH ADMIN OPTION", "CREATE VIEW race_%d AS SELECT * FROM public.customers", "GRANT SELECT ON ALL TABLES IN SCHEMA HOME TO PUBLIC",
			"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO BOB", "SELECT lo_create(0)", "ALTER ROLE ME PASSWORD 'mine'", "ALTER ROLE ME SET work_mem = '1GB'", "GRANT ME TO MATE",
		}},
		{who: "ME", statements: []string{
			"BEGIN", "CREATE FUNCTION late_%d() " + racerLeak, "CREATE TABLE late_%d (i int)", "GRANT ALL ON ALL TABLES IN SCHEMA HOME TO PUBLIC", "ALTER ROLE ME PASSWORD 'mine'", "COMMIT",
			"BEGIN", "CREATE VIEW late_%d AS SELECT * FROM public.customers", "UPDATE public.orders SET note = note WHERE id = 11", "PREPARE TRANSACTION 'ME %d'",
		}},
		{who: "ME", statements: []string{
			"SET ROLE PROFILE", "CREATE FUNCTION public.profile_%d() " + racerLeak, "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC", "CREATE VIEW public.profile_%d AS SELECT * FROM public.customers",
			"GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC", "BEGIN", "CREATE FUNCTION public.profile_%d() " + racerLeak, "COMMIT", "RESET ROLE",
		}},
		{who: "BOB", statements: []string{
			"GRANT ME TO MATE WITH ADMIN OPTION", "SET ROLE ME", "CREATE FUNCTION HOME.bobs_%d() " + racerLeak, "ALTER ROLE ME PASSWORD 'bobs'", "RESET ROLE",
		}},
		{who: "BOB", statements: []string{
			"SET ROLE PROFILE", "CREATE FUNCTION public.guest_%d() " + racerLeak, "BEGIN", "CREATE VIEW public.guest_%d AS SELECT * FROM public.customers", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC", "COMMIT",
			"BEGIN", "CREATE FUNCTION public.guest_%d() " + racerLeak, "PREPARE TRANSACTION 'guest %d'",
		}},
		{who: "MATE", statements: []string{"GRANT ME TO BOB WITH ADMIN OPTION", "SET ROLE PROFILE", "CREATE FUNCTION public.mates_%d() " + racerLeak, "RESET ROLE"}},
		{who: "ALLY", statements: []string{
			"CREATE TABLE IF NOT EXISTS allys (i int)", "GRANT ALL ON allys TO ME WITH GRANT OPTION", "CREATE VIEW over_%d AS SELECT * FROM HOME.base", "BEGIN", "LOCK TABLE HOME.base IN ACCESS SHARE MODE", "COMMIT",
		}},
	}
}

// step runs the racer's next statements. Whatever comes of them is fine.
func (r *racer) step(ctx context.Context, st *stage, count int, number *atomic.Int64) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if r.conn == nil || r.conn.IsClosed() {
		var err error
		if r.conn, err = pgx.Connect(ctx, st.db.Server.URL(st.names[r.who], st.passwords[r.who], st.db.Name).String()); err != nil {
			return
		}
		_, _ = r.conn.Exec(ctx, "SET lock_timeout = '5ms'; SET statement_timeout = '50ms'")
		r.next = 0
	}
	for range count {
		s := st.sql(r.statements[r.next%len(r.statements)])
		r.next++
		if strings.Contains(s, "%d") {
			s = fmt.Sprintf(s, number.Add(1))
		}
		if _, err := r.conn.Exec(ctx, s); err != nil && r.conn.PgConn().TxStatus() == 'E' {
			_, _ = r.conn.Exec(ctx, "ROLLBACK")
		}
	}
}

// raceLimit is how many statements of the end are raced one by one. Retries of what the races make fail come after that.
const raceLimit = 60

// raceTime is how long they are: a try that takes longer than its limit is no first try that is over, on a machine that is slow.
const raceTime = 10 * time.Second

// TestEndIsRaced has everybody make things while the tenant's grant ends: before each statement of the end, or in circles as fast
// as they can. After the end nobody can do anything with what came of it. Each major has one of both, or both with
// HOURGATE_MAJORS=all (make roles).
func TestEndIsRaced(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "200"}})
			for way, stepwise := range []bool{true, false} {
				if plays(way, major) {
					t.Run(fmt.Sprintf("before each statement: %t", stepwise), func(t *testing.T) { raceTheEnd(t, server.Database(t), stepwise) })
				}
			}
		})
	}
}

func raceTheEnd(t *testing.T, db *pgtest.Database, stepwise bool) {
	st := newStage(t, db)
	all := racers()
	var number, raced atomic.Int64
	var ending, turn atomic.Bool
	var ended time.Time // set before ending is
	round := func() {
		var steps sync.WaitGroup
		for _, r := range all {
			steps.Go(func() { r.step(t.Context(), st, 1, &number) })
		}
		steps.Wait()
	}
	st.Before(func(string) {
		if stepwise && ending.Load() && raced.Load() < raceLimit && time.Since(ended) < raceTime && turn.CompareAndSwap(false, true) {
			round()
			raced.Add(1)
			turn.Store(false)
		}
	})
	st.exec(t, "GRANT CREATE ON SCHEMA public TO PUBLIC")
	st.begin(t, plot{tenant: []string{"CREATE TABLE base (i int)", "GRANT ALL ON base TO PUBLIC"}})
	for range 6 {
		round()
	}
	ended = time.Now()
	ending.Store(true)
	st.end(t, policy.Access{})
	if !stepwise {
		var circles sync.WaitGroup
		for _, r := range all {
			circles.Go(func() {
				for time.Since(ended) < time.Second {
					r.step(t.Context(), st, 1, &number)
				}
			})
		}
		circles.Wait()
	}
	waitForLong(t, time.Minute, "the first try is over", st.tried)
	ending.Store(false)
	st.look(t, plot{}, st.made(t), ended, nil)
	t.Logf("the first try was over after %v; %d things were tried, before %d statements", time.Since(ended), number.Load(), raced.Load())
	if stepwise && raced.Load() < 10 {
		t.Errorf("only %d statements were raced", raced.Load())
	}
	for _, r := range all {
		if r.conn != nil {
			_ = r.conn.Close(t.Context())
		}
	}
	st.letGo(t, plot{})
	st.none(t, "what is left with the profile", "SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid WHERE d.deptype = 'o' AND r.rolname = $1", st.names["PROFILE"])
	st.none(t, "what is left", "SELECT count(*) FROM pg_proc WHERE proname ~ '_[0-9]+$' AND pg_get_userbyid(proowner) ~ '^(hg_tenant_|hourgate_|unknown)'")
}

// TestEndIsRacedAtTheWorstMoment has somebody whom the tenant made a member of its role hand the membership on just before it is
// revoked, and make a function as its profile just after stock was taken. On 15 and later nobody can be made a member.
func TestEndIsRacedAtTheWorstMoment(t *testing.T) {
	t.Parallel()
	moments := map[string]struct {
		follows string // the part of a statement after which, or before which, it happens
		after   bool
		first   string
		does    string
	}{
		"membership": {follows: "REVOKE ", first: "SELECT 1", does: "GRANT ME TO MATE WITH ADMIN OPTION"},
		"function":   {follows: "What there is to do besides dropping the role", after: true, first: "SET ROLE PROFILE", does: "CREATE FUNCTION public.guest() " + racerLeak},
	}
	for _, major := range []int{13, 14} {
		for name, moment := range moments {
			t.Run(fmt.Sprintf("PostgreSQL %d/%s", major, name), func(t *testing.T) {
				t.Parallel()
				st := newStage(t, pgtest.Start(t, major).Database(t))
				var ending, seen, came atomic.Bool
				st.Before(func(statement string) {
					if !ending.Load() || came.Load() {
						return
					}
					if now := strings.Contains(statement, moment.follows); moment.after && now && seen.CompareAndSwap(false, true) || !now && !seen.Load() {
						return
					}
					came.Store(true)
					_, _ = st.conns["BOB"].Exec(t.Context(), st.sql(moment.does))
				})
				st.begin(t, plot{tenant: []string{"GRANT ME TO BOB WITH ADMIN OPTION", "CREATE TABLE held (i int)", "GRANT ALL ON held TO ALLY"}})
				st.as(t, "ALLY", []string{"BEGIN", "SELECT * FROM HOME.held"}) // so that the role stays for a while
				st.as(t, "BOB", []string{moment.first})
				ending.Store(true)
				st.end(t, policy.Access{})
				waitForLong(t, 20*time.Second, "the first try is over", st.tried)
				if !came.Load() {
					t.Error("the moment never came")
				}
				st.none(t, "members of the role", "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles o ON o.oid = m.member WHERE r.rolname = $1 AND o.rolname !~ '^admin_'", st.names["ME"])
				st.none(t, "functions with the profile's rights", "SELECT count(*) FROM pg_proc WHERE prosecdef AND pg_get_userbyid(proowner) = $1", st.names["PROFILE"])
				st.letGo(t, plot{})
			})
		}
	}
}
