package roles_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
)

// TestTenantsWhoWorkTogether plays plots of two and three parties. A second after the end nobody can do anything with what the
// tenant made, whatever somebody does to keep it; and once he lets go, all is as before.
func TestTenantsWhoWorkTogether(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "20"}})
			for i, p := range slices.Concat(plots, kinds, loops, holds) {
				if !plays(i, major) {
					continue
				}
				t.Run(p.name, func(t *testing.T) {
					t.Parallel()
					newStage(t, server.Database(t)).play(t, p)
				})
			}
		})
	}
}

// plays reports whether the plot or trick with that number is played on a major. Each is on three, of which neighbours have the other
// three: on one of those where everybody may create in public, one of those around the change of memberships in 16, and one of
// those after it. HOURGATE_MAJORS=all has each on all (make roles).
func plays(plot, major int) bool {
	return os.Getenv("HOURGATE_MAJORS") == "all" || (plot+major)%2 == 0
}

// stage is a database with everybody who takes part.
type stage struct {
	*fixture
	live  *policy.Live
	names map[string]string
	conns map[string]*pgx.Conn

	passwords map[string]string
	lease     *roles.Lease

	changed int // rows that had been changed when the grant ended
}

func newStage(t *testing.T, db *pgtest.Database) *stage {
	t.Helper()
	st := &stage{live: &policy.Live{}, names: make(map[string]string), conns: make(map[string]*pgx.Conn), passwords: map[string]string{"BOB": "secret", "MATE": "secret"}}
	st.fixture = newFixture(t, db, func(c *roles.Config) { c.Policy = st.live })
	suffix := strings.TrimPrefix(db.Name, "db_")
	st.names["OWNER"], st.names["DB"], st.names["PORT"] = db.Owner, db.Name, strconv.Itoa(db.Server.Port)
	for _, who := range []string{"BOB", "MATE"} {
		st.names[who] = strings.ToLower(who) + "_" + suffix
		st.exec(t, "CREATE ROLE "+st.names[who]+" LOGIN PASSWORD '"+pgtest.Verifier(t, "secret")+"'")
	}
	st.names["TEAM"] = "team_" + suffix
	st.exec(t, "CREATE ROLE "+st.names["TEAM"]+" NOLOGIN; GRANT SELECT, UPDATE ON customers, orders TO "+st.names["TEAM"]+"; GRANT CREATE ON SCHEMA public TO "+st.names["TEAM"])
	st.names["PARENT"] = "parent_" + suffix
	st.exec(t, "CREATE ROLE "+st.names["PARENT"]+" NOLOGIN; GRANT SELECT ON customers TO "+st.names["PARENT"]+"; GRANT CREATE ON SCHEMA public TO "+st.names["PARENT"]+"; GRANT "+st.names["PARENT"]+" TO "+st.names["TEAM"])
	if db.Server.Major >= 16 {
		st.exec(t, "GRANT "+st.names["TEAM"]+" TO "+db.Admin+" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
	}
	st.exec(t, "GRANT pg_signal_backend TO "+db.Admin)
	return st
}

var parts = regexp.MustCompile(`\b(ME|ALLY|BOB|MATE|TEAM|PARENT|PROFILE|OWNER|HOME|DB|PORT)\b`)

// sql puts the names in.
func (st *stage) sql(statement string) string {
	return parts.ReplaceAllStringFunc(statement, func(word string) string { return st.names[word] })
}

func (st *stage) as(t *testing.T, who string, statements []string) {
	t.Helper()
	if len(statements) == 0 {
		return
	}
	conn, ok := st.conns[who]
	if !ok {
		conn = st.connect(t, who)
		st.conns[who] = conn
	}
	for _, s := range statements {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := conn.Exec(ctx, st.sql(s)); err != nil {
			t.Logf("%s: %s: %v", who, s, err)
		}
		cancel()
	}
}

func (st *stage) connect(t *testing.T, who string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), st.db.Server.URL(st.names[who], "secret", st.db.Name).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// policy is a set with the grants of those who are named.
func (st *stage) policy(t *testing.T, access policy.Access, people ...string) *policy.Set {
	t.Helper()
	var b strings.Builder
	b.WriteString("users: [{name: tenant}, {name: ally}]\ngrants:\n")
	for _, who := range people {
		what := "{level: ADMIN, create_in: [public]}"
		if who == "tenant" && access.Level != "" {
			what = string(access.Level)
		}
		if who == "tenant" && len(access.Roles) > 0 {
			what = fmt.Sprintf("{roles: [%s], dangerous: %t}", st.sql(access.Roles[0]), access.Dangerous)
		}
		fmt.Fprintf(&b, "  - {name: %s, users: [%s], integration: orders, access: %s, until: %s}\n", who, who, what, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}
	set, err := policy.Parse([]policy.Source{{File: "p.yaml", Data: []byte(b.String())}}, map[string]string{"orders": st.db.Name})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (st *stage) enter(t *testing.T, set *policy.Set, who, name string) *roles.Lease {
	t.Helper()
	grant, ok := set.Covers(who, who, st.db.Name, time.Now())
	if !ok {
		t.Fatalf("the policy does not cover %s", who)
	}
	lease, err := st.Acquire(t.Context(), who, grant, st.db.Name)
	if err != nil {
		t.Fatal(err)
	}
	st.names[name], st.passwords[name] = lease.Login().User, lease.Login().Password
	st.conns[name] = st.login(t, lease.Login())
	return lease
}

// made returns what roles of ours own: functions, and relations that can be read.
func (st *stage) made(t *testing.T) (calls []string) {
	t.Helper()
	rows, err := st.super.Query(t.Context(), `
		SELECT CASE WHEN pronargs = 0 AND prokind = 'f' THEN format('SELECT %s', f.oid::regprocedure) END FROM pg_proc f WHERE proowner IN (SELECT oid FROM pg_roles WHERE rolname ~ '^(hg_|hourgate_|team_|parent_)') AND prorettype <> 'trigger'::regtype AND proname <> 'slowly'
		UNION ALL SELECT format('SELECT * FROM %s', c.oid::regclass) FROM pg_class c
		 WHERE relkind IN ('v', 'm') AND relowner IN (SELECT oid FROM pg_roles WHERE rolname ~ '^(hg_|hourgate_|team_|parent_)') AND relnamespace::regnamespace::text !~ '^pg_'`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[*string])
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s != nil && !strings.Contains(*s, "over") {
			calls = append(calls, *s)
		}
	}
	return calls
}

// begin has the tenant and the accomplice come, and the tenant do his part. It returns what can be called then.
func (st *stage) begin(t *testing.T, p plot) (calls []string) {
	set := st.policy(t, p.access, "tenant", "ally")
	st.live.Put(set)
	st.lease = st.enter(t, set, "tenant", "ME")
	ally := st.enter(t, set, "ally", "ALLY")
	t.Cleanup(ally.Release)
	var profile, home string
	_ = st.super.QueryRow(t.Context(), "SELECT min(g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = $1 AND g.rolname ~ '^hourgate_'", st.names["ME"]).Scan(&profile)
	_ = st.conns["ME"].QueryRow(t.Context(), "SELECT quote_ident(current_schema())").Scan(&home)
	st.names["PROFILE"], st.names["HOME"] = profile, home
	for _, s := range p.before {
		st.exec(t, st.sql(s))
	}
	st.as(t, "ME", append([]string{house}, p.tenant...))
	return st.made(t)
}

// end takes the tenant's grant out of the policy.
func (st *stage) end(t *testing.T, access policy.Access) {
	t.Helper()
	if err := st.super.QueryRow(t.Context(), "SELECT count(*) FROM orders WHERE note !~ '^Order'").Scan(&st.changed); err != nil {
		t.Fatal(err)
	}
	st.live.Put(st.policy(t, access, "ally"))
}

// play has everybody do his part, ends the tenant's grant, and looks what can be done a second later.
func (st *stage) play(t *testing.T, p plot) {
	calls := st.begin(t, p)
	st.as(t, "ALLY", p.ally)
	st.as(t, "BOB", p.bob)
	st.queue(t, p.behind)
	for _, s := range p.dba {
		if _, err := st.super.Exec(t.Context(), st.sql(s)); err != nil {
			t.Logf("dba: %v", err)
		}
		_, _ = st.super.Exec(t.Context(), "RESET ROLE")
	}
	st.as(t, "MATE", p.mate)
	st.as(t, "ME", p.again)
	ran := make(chan error, 1)
	if p.running != "" {
		runner := st.connect(t, "BOB")
		go func() { _, err := runner.Exec(context.Background(), st.sql(p.running)); ran <- err }()
		waitFor(t, "bob is inside", func() bool {
			var n int
			_ = st.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks l WHERE relation = 'orders'::regclass AND (pid = $1 OR EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND to_jsonb(a)->>'leader_pid' = $1::int::text))", runner.PgConn().PID()).Scan(&n)
			return n > 0
		})
		st.as(t, "ME", p.meanwhile)
	}

	ended := time.Now()
	st.end(t, p.access)
	st.aSecondAfter(t, ended)
	st.look(t, p, calls, ended, ran)
	st.letGo(t, p)
}

// queue has the member of TEAM wait for a row that bob holds, as the first. Where the tenant could not make what it takes, he is done at
// once.
func (st *stage) queue(t *testing.T, statement string) {
	t.Helper()
	if statement == "" {
		return
	}
	conn := st.connect(t, "MATE")
	pid, over := conn.PgConn().PID(), make(chan struct{})
	go func() {
		defer close(over)
		_, _ = conn.Exec(t.Context(), st.sql(statement))
	}()
	t.Cleanup(func() { <-over })
	waitFor(t, "somebody waits behind bob", func() bool {
		select {
		case <-over:
			return true
		default:
			var n int
			_ = st.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE pid = $1 AND locktype = 'tuple' AND granted", pid).Scan(&n)
			return n > 0
		}
	})
}

// aSecondAfter waits for the moment that the promise is about, or until the role is settled, after which nothing more is done. On a
// machine that is busy with other tests the first try of the end may not be over by then, so it is waited for too; HOURGATE_STRICT
// waits for a second and no more.
func (st *stage) aSecondAfter(t *testing.T, ended time.Time) {
	t.Helper()
	strict := os.Getenv("HOURGATE_STRICT") != ""
	if !strict {
		waitFor(t, "the first try is over", st.tried)
	}
	waitFor(t, "a second has passed", func() bool { return time.Since(ended) > time.Second || !strict && st.saw(audit.RoleSettled) })
}

// tried reports whether a try at settling the tenant's role is over.
func (st *stage) tried() bool {
	return st.saw(audit.RoleSettled, audit.RoleSettleFailed, audit.RoleTombstoned)
}

// saw reports whether the trail has one of the events about the tenant's role.
func (st *stage) saw(events ...audit.Event) bool {
	return slices.ContainsFunc(events, func(event audit.Event) bool {
		return slices.ContainsFunc(st.trail.of(event), func(r audit.Record) bool { return r.Role == st.names["ME"] })
	})
}

// look is the oracle: what can be done with what the tenant made, by whoever can reach it.
func (st *stage) look(t *testing.T, p plot, calls []string, ended time.Time, ran chan error) {
	t.Helper()
	if p.running != "" {
		select {
		case err := <-ran:
			if err == nil {
				t.Error("what bob ran in the tenant's code came to its end")
			}
		case <-time.After(max(time.Until(ended.Add(time.Second)), 50*time.Millisecond)): // not both at once
			t.Error("bob still runs the tenant's code")
		}
	}
	for _, s := range p.after {
		if tag, err := st.conns["BOB"].Exec(t.Context(), st.sql(s)); err == nil && tag.String() != "ROLLBACK" {
			t.Errorf("bob can still do: %s", s)
		}
	}
	fresh := st.connect(t, "BOB")
	for _, s := range p.fresh {
		calls = append(calls, st.sql(s))
	}
	for _, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if tag, err := fresh.Exec(ctx, call); err == nil && tag.RowsAffected() > 0 {
			t.Errorf("bob can do: %s", call)
		}
		cancel()
		if fresh.IsClosed() {
			fresh = st.connect(t, "BOB")
		}
	}
	for _, password := range []string{st.lease.Login().Password, "mine", "bobs", "p"} {
		if conn, err := pgx.Connect(t.Context(), st.db.Server.URL(st.names["ME"], password, st.db.Name).String()); err == nil {
			_ = conn.Close(t.Context())
			t.Errorf("the role can log in with password %q", password)
		}
	}
	st.none(t, "memberships of the role", "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = $1", st.names["ME"])
	st.none(t, "members of the role", "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles o ON o.oid = m.member WHERE r.rolname = $1 AND o.rolname !~ '^admin_'", st.names["ME"])
	st.none(t, "sessions of the role", "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", st.names["ME"])
	st.none(t, "rows that were changed with the tenant's rights", "SELECT abs(count(*) - $1) FROM orders WHERE note !~ '^Order'", st.changed)
	st.none(t, "prepared transactions", "SELECT count(*) FROM pg_prepared_xacts WHERE database = $1 AND owner NOT IN ($2, $3)", st.db.Name, st.names["BOB"], st.names["MATE"])
	st.none(t, "SECURITY DEFINER functions with power", `
		SELECT count(*) FROM pg_proc WHERE prosecdef AND proowner IN (SELECT oid FROM pg_roles WHERE rolname ~ '^(hourgate_|team_|parent_)')`)
	st.none(t, "rights of others to routines in quarantine", `
		SELECT count(*) FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
		 WHERE pg_get_userbyid(p.proowner) ~ '^hourgate_quarantine_' AND x.grantee <> p.proowner`)
	st.none(t, "default privileges of roles that live on", "SELECT count(*) FROM pg_default_acl WHERE pg_get_userbyid(defaclrole) ~ '^(team_|parent_)'")
	for _, s := range p.later {
		st.exec(t, st.sql(s))
	}
	if p.mates != "" {
		var kept bool
		if err := st.super.QueryRow(t.Context(), st.sql(p.mates)).Scan(&kept); err != nil || !kept {
			t.Errorf("what belongs to others is gone: %v", err)
		}
	}
}

func (st *stage) none(t *testing.T, what, query string, args ...any) {
	t.Helper()
	var n int
	if err := st.super.QueryRow(t.Context(), query, args...).Scan(&n); err != nil || n != 0 {
		t.Errorf("%s: %d, %v", what, n, err)
	}
}

// letGo ends what bob and the accomplice hold, after which the role goes, unless it is gone already.
func (st *stage) letGo(t *testing.T, p plot) {
	t.Helper()
	records := func() int { return len(st.trail.of("role_settled")) }
	if p.blocked && records() > 0 && st.exists(t, st.names["ME"]) {
		t.Error("the trail says that the role is settled, and it is there")
	}
	for _, who := range []string{"BOB", "ALLY", "ME"} {
		if conn, ok := st.conns[who]; ok {
			_ = conn.Close(t.Context())
		}
	}
	waitForLong(t, 20*time.Second, "the role is gone", func() bool {
		if p.tombstone && st.saw(audit.RoleTombstoned) {
			_ = st.Sweep(t.Context()) // a minute later
		}
		return !st.exists(t, st.names["ME"])
	})
	st.lease.Release()
	st.none(t, "large objects", "SELECT count(*) FROM pg_largeobject_metadata")
	st.none(t, "settings", "SELECT count(*) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE r.rolname IN ($1, $2)", st.names["TEAM"], st.names["PROFILE"])
}

// TestRandomPlots has the tenant, the accomplice and bob do what plots have them do, mixed by a seed: a few in each run, or as
// many a major as HOURGATE_PLOTS says (make plots). HOURGATE_SEED repeats one.
func TestRandomPlots(t *testing.T) {
	t.Parallel()
	count, first := 1, time.Now().UnixNano()
	if n, err := strconv.Atoi(os.Getenv("HOURGATE_PLOTS")); err == nil {
		count = n
	}
	if n, err := strconv.ParseInt(os.Getenv("HOURGATE_SEED"), 10, 64); err == nil {
		count, first = 1, n
	}
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "20"}})
			for i := range count {
				seed := first + int64(i)
				t.Run(fmt.Sprint(seed), func(t *testing.T) { newStage(t, server.Database(t)).play(t, randomPlot(seed)) })
			}
		})
	}
}

// randomPlot mixes what the plots and tricks do.
func randomPlot(seed int64) plot {
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	var tenant, ally, bob []string
	for _, p := range slices.Concat(plots, holds) {
		tenant = append(tenant, p.tenant...)
		ally, bob = append(ally, p.ally...), append(bob, p.bob...)
	}
	for _, tr := range tricks {
		if !tr.busy {
			tenant = append(tenant, tr.tenant...)
		}
	}
	pick := func(from []string, n int) (picked []string) {
		for range n {
			if s := from[random.IntN(len(from))]; !strings.Contains(s, "advisory") && !strings.Contains(s, "PROGRAM") {
				picked = append(picked, s)
			}
		}
		return picked
	}
	return plot{
		blocked: true,
		tenant:  append([]string{leak, steal, window, opened[0]}, pick(tenant, 12)...),
		ally:    pick(ally, 2), bob: pick(bob, 2),
	}
}
