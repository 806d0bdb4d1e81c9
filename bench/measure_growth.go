//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/pgserver"
)

// Measures of how Hourgate bears many of something. Each has a gate of its own.
const (
	manyLoginsMeasure       = "growth/first log-ins at once"
	manyPeopleMeasure       = "growth/people and grants"
	manyPeopleLoginMeasure  = "growth/people and grants/log-ins"
	manyIntegrationsMeasure = "growth/integrations"
)

func manyEndsMeasure(ends int) string { return fmt.Sprintf("growth/ends/%d", ends) }

// How many there are.
const (
	manyLogins       = 64
	manyPeople       = 10_000
	manyIntegrations = 200
	// mostStatements is how many sessions have a statement under way when their grants end.
	mostStatements = 500
)

// Quantities of growth measures. Times are seconds.
const (
	quantityTime        = "time"
	quantityReload      = "reload"         // until the policy is in force
	quantityReloadCPU   = "reload cpu"     // of the gate's
	quantityMemory      = "memory"         // bytes of the whole process
	quantityConnections = "connections"    // the most that the gate had at once
	quantityReady       = "ready"          // until the gate takes sessions
	quantityIdle        = "idle"           // CPU seconds a second with nothing to do
	quantityCut         = "cut"            // until the last client knows
	quantityStatements  = "last statement" // until no statement runs on the server
	quantityPowerless   = "powerless"      // until no role can log in
	quantityGone        = "gone"           // until no role is there
	quantityLeft        = "left"           // roles that were there after endsLimit
)

// endsLimit is how long roles are waited for. They can do nothing long before.
const endsLimit = time.Minute

// people is a policy file: users with a grant each.
func (r *rig) people(prefix string, count int) string {
	until := time.Now().Add(12 * time.Hour).UTC().Format(time.RFC3339)
	var users, grants strings.Builder
	for i := range count {
		name := person(prefix, i)
		fmt.Fprintf(&users, "  - {name: %s, scram: %q}\n", name, r.verifier)
		fmt.Fprintf(&grants, "  - {name: %s, users: [%s], integration: %s, access: READ_ONLY, until: %s}\n", name, name, benchDatabase, until)
	}
	return "users:\n" + users.String() + "grants:\n" + grants.String()
}

func person(prefix string, i int) string { return fmt.Sprintf("%s-%04d", prefix, i) }

// measureManyLogins lets many people in at once who have not been seen before, and as many who need no role. We are the client.
func measureManyLogins(ctx context.Context, r *rig) error {
	r.sayf("%d first log-ins at once", manyLogins)
	turns := 2 * r.mode.rounds // one may be tried again
	gate, stop, err := r.besideWith(ctx, gateExtras{policy: r.people("burst", turns*manyLogins)})
	if err != nil {
		return err
	}
	defer stop()
	direct := &proxy{name: directName, port: r.server.Port}
	round := 0
	return r.rounds(ctx, []*proxy{direct, gate}, func(ctx context.Context, p *proxy) error {
		name := func(int) string { return benchUser }
		if p == gate {
			before := round * manyLogins
			round++
			name = func(i int) string { return person("burst", before+i) }
		}
		began := time.Now()
		conns, err := r.logInMany(ctx, p, manyLogins, manyLogins, name)
		took := time.Since(began)
		closeAll(conns)
		if err != nil {
			return err
		}
		r.results.add(manyLoginsMeasure, p.name, map[string]float64{quantityTime: took.Seconds()})
		return nil
	})
}

// logInMany logs people in, some at a time.
func (r *rig) logInMany(ctx context.Context, p *proxy, count, atOnce int, name func(int) string) ([]*pgconn.PgConn, error) {
	conns := make([]*pgconn.PgConn, count)
	return conns, each(count, atOnce, func(i int) (err error) {
		conns[i], err = r.connect(ctx, p, name(i))
		return err
	})
}

// each calls do for all numbers below count, some at a time, until one fails.
func each(count, atOnce int, do func(i int) error) error {
	var next atomic.Int64
	var running sync.WaitGroup
	errs := make([]error, atOnce)
	for worker := range atOnce {
		running.Go(func() {
			for errs[worker] == nil {
				i := int(next.Add(1)) - 1
				if i >= count {
					return
				}
				errs[worker] = do(i)
			}
			next.Store(int64(count)) // no more
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// measureManyPeople has a policy of many, reloads it, and lets a person in who was always there, beside a gate without them.
func measureManyPeople(ctx context.Context, r *rig) error {
	r.sayf("%d people and grants", manyPeople)
	few, stopFew, err := r.beside(ctx, hourgateName)
	if err != nil {
		return err
	}
	defer stopFew()
	many, stop, err := r.besideWith(ctx, gateExtras{policy: r.people("many", manyPeople)})
	if err != nil {
		return err
	}
	defer stop()
	used, err := readMemory(many.process)
	if err != nil {
		return err
	}
	fewUsed, err := readMemory(few[0].process)
	if err != nil {
		return err
	}
	many.name = manyPeopleMeasure
	err = r.rounds(ctx, []*proxy{few[0], many}, func(ctx context.Context, p *proxy) error {
		t, err := r.runPgbench(ctx, p, pgbench{measure: loginMeasure, window: r.mode.loginWindow, connecting: true}, "-S", "-C", "-c", "8", "-j", "8")
		if err != nil {
			return err
		}
		r.results.add(manyPeopleLoginMeasure, p.name, t.quantities())
		return nil
	})
	if err != nil {
		return err
	}
	for range r.mode.rounds {
		took, cpu, err := r.reload(ctx, many, r.people("many", manyPeople-1))
		if err != nil {
			return many.blame(err)
		}
		r.results.add(manyPeopleMeasure, hourgateName, map[string]float64{
			quantityReload: took, quantityReloadCPU: cpu, quantityMemory: float64(used.rss - fewUsed.rss),
		})
	}
	return nil
}

// reload changes the gate's second policy file, and says how long it takes until that is in force, and how much CPU time.
func (r *rig) reload(ctx context.Context, p *proxy, policy string) (took, cpu float64, err error) {
	const metric = "hourgate_policy_last_reload_success_timestamp_seconds"
	// Another content each time, or there would be nothing to do.
	policy += "# " + time.Now().String() + "\n"
	if err := os.WriteFile(filepath.Join(p.folder, morePolicy), []byte(policy), 0o600); err != nil {
		return 0, 0, err
	}
	before, err := readUsage(p.process)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := syscall.Kill(p.process.pid, syscall.SIGHUP); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		at, err := scrape(ctx, p.ops, metric)
		if err != nil {
			return 0, 0, err
		}
		if took = at - float64(began.UnixNano())/1e9; took > 0 {
			break
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return 0, 0, fmt.Errorf("waiting for the new policy: %w", err)
		}
	}
	after, err := readUsage(p.process)
	return took, (after.cpu - before.cpu).Seconds(), err
}

// measureManyIntegrations has many on one server, which somebody logs in to each of.
func measureManyIntegrations(ctx context.Context, r *rig) error {
	r.sayf("%d integrations on one server", manyIntegrations)
	var integrations, grants strings.Builder
	for i := range manyIntegrations {
		name := person("server", i)
		fmt.Fprintf(&integrations, moreIntegration, name, r.server.Port, benchDatabase, r.authority.CertFile)
		fmt.Fprintf(&grants, "  - {name: %s, users: [%s], integration: %s, access: READ_ONLY, until: %s}\n",
			name, benchUser, name, time.Now().Add(12*time.Hour).UTC().Format(time.RFC3339))
	}
	super, err := r.superuser(ctx)
	if err != nil {
		return err
	}
	defer super.Close(context.WithoutCancel(ctx))
	others, err := adminConnections(ctx, super) // of the gates that run already, and do nothing
	if err != nil {
		return err
	}
	began := time.Now()
	gate, stop, err := r.besideWith(ctx, gateExtras{integrations: integrations.String(), policy: "users: []\ngrants:\n" + grants.String()})
	if err != nil {
		return err
	}
	defer stop()
	ready := time.Since(began)

	watching, stopWatching := context.WithCancel(ctx)
	most := make(chan int, 1)
	go func() {
		highest := 0
		for watching.Err() == nil {
			if n, err := adminConnections(watching, super); err == nil {
				highest = max(highest, n-others)
			}
			_ = sleep(watching, 5*time.Millisecond)
		}
		most <- highest
	}()
	began = time.Now()
	err = each(manyIntegrations, opening, func(i int) error {
		conn, err := r.connectTo(ctx, gate, benchUser, person("server", i))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	took := time.Since(began)
	stopWatching()
	connections := <-most
	if err != nil {
		return gate.blame(err)
	}
	before, err := readUsage(gate.process)
	if err != nil {
		return err
	}
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	after, err := readUsage(gate.process)
	if err != nil {
		return err
	}
	used, err := readMemory(gate.process)
	if err != nil {
		return err
	}
	r.results.add(manyIntegrationsMeasure, hourgateName, map[string]float64{
		quantityReady: ready.Seconds(), quantityTime: took.Seconds(), quantityConnections: float64(connections), quantityMemory: float64(used.rss),
		quantityIdle: (after.cpu - before.cpu).Seconds() / after.at.Sub(before.at).Seconds(),
	})
	return nil
}

func adminConnections(ctx context.Context, super *pgx.Conn) (n int, err error) {
	err = super.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", gateAdmin).Scan(&n)
	return n, err
}

// superuser looks at the server from within.
func (r *rig) superuser(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable",
		r.file("postgresql"), r.server.Port, pgserver.Superuser, pgserver.Superuser))
}

// measureManyEnds withdraws many grants by one reload. Everybody has a role then, and many a statement under way.
func measureManyEnds(ctx context.Context, r *rig) error {
	for _, count := range r.mode.ends {
		if err := r.manyEnds(ctx, count); err != nil {
			return fmt.Errorf("%d ends: %w", count, err)
		}
	}
	return nil
}

func (r *rig) manyEnds(ctx context.Context, count int) error {
	prefix := fmt.Sprintf("ends%d", count)
	gate, stop, err := r.besideWith(ctx, gateExtras{policy: r.people(prefix, count)})
	if err != nil {
		return err
	}
	defer stop()
	super, err := r.superuser(ctx)
	if err != nil {
		return err
	}
	defer super.Close(context.WithoutCancel(ctx))
	r.sayf("%d ends: logging in", count)
	conns := make([]*pgconn.PgConn, min(count, mostStatements))
	defer closeAll(conns)
	err = each(count, 2*opening, func(i int) error {
		conn, err := r.connect(ctx, gate, person(prefix, i))
		if err != nil {
			return err
		}
		if i < len(conns) {
			conns[i] = conn
			return nil
		}
		return conn.Close(ctx)
	})
	if err != nil {
		return gate.blame(err)
	}
	cut := make([]time.Time, len(conns))
	var sessions sync.WaitGroup
	for i, conn := range conns {
		sessions.Go(func() {
			_, _ = conn.Exec(ctx, "SELECT pg_sleep(3600)").ReadAll() // it is to be ended
			cut[i] = time.Now()
		})
	}
	began, last, err := r.endAll(ctx, gate, super, prefix, count, len(conns))
	if err != nil {
		return gate.blame(err)
	}
	closeAll(conns)
	sessions.Wait()
	for _, at := range cut {
		last[quantityCut] = max(last[quantityCut], at.Sub(began).Seconds())
	}
	r.results.add(manyEndsMeasure(count), hourgateName, last)
	return nil
}

// endAll takes the grants away once all statements run, and looks at the server until no role is left, or for endsLimit.
func (r *rig) endAll(ctx context.Context, gate *proxy, super *pgx.Conn, prefix string, count, statements int) (began time.Time, last map[string]float64, err error) {
	const look = `SELECT (SELECT count(*) FROM pg_stat_activity WHERE starts_with(usename, $1) AND wait_event = 'PgSleep'),
		count(*), count(*) FILTER (WHERE rolcanlogin) FROM pg_roles WHERE starts_with(rolname, $1)`
	ctx, cancel := context.WithTimeout(ctx, 2*endsLimit)
	defer cancel()
	var running, roles, able int
	for running < statements || roles < count {
		if err := super.QueryRow(ctx, look, "hg_"+prefix+"_").Scan(&running, &roles, &able); err != nil {
			return began, nil, fmt.Errorf("waiting until %d statements run and %d roles are there (%d, %d): %w", statements, count, running, roles, err)
		}
	}
	r.sayf("%d ends", count)
	if err := os.WriteFile(filepath.Join(gate.folder, morePolicy), []byte("users: []\ngrants: []\n"), 0o600); err != nil {
		return began, nil, err
	}
	began = time.Now()
	if err := syscall.Kill(gate.process.pid, syscall.SIGHUP); err != nil {
		return began, nil, err
	}
	last = make(map[string]float64)
	for roles > 0 && time.Since(began) < endsLimit {
		if err := super.QueryRow(ctx, look, "hg_"+prefix+"_").Scan(&running, &roles, &able); err != nil {
			return began, nil, fmt.Errorf("%d statements run on, %d roles are left, %d of them can log in: %w", running, roles, able, err)
		}
		for quantity, left := range map[string]int{quantityStatements: running, quantityGone: roles, quantityPowerless: able} {
			if last[quantity] == 0 && left == 0 {
				last[quantity] = time.Since(began).Seconds()
			}
		}
		_ = sleep(ctx, time.Duration(max(5, roles/50))*time.Millisecond) // a look at many takes the server's time
	}
	last[quantityLeft] = float64(roles)
	return began, last, nil
}
