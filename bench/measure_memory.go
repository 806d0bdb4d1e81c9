//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Quantities of memory measures, bytes for an idle session.
const (
	quantityRSS       = "rss"
	quantityPSS       = "pss"
	quantityAnonymous = "anonymous"
	quantityLater     = "rss later" // a minute after the last query
)

const (
	// realSessions is how many sessions PostgreSQL itself serves; more are the stub's.
	realSessions = 1000
	// serverConnections leaves room for Hourgate's own.
	serverConnections = realSessions + 100

	// crowd is how many people the sessions belong to: Hourgate lets a grant have a thousand.
	crowd         = 20
	crowdSessions = 500

	// opening is how many sessions are opened at a time.
	opening = 8
)

func crowdUser(i int) string { return fmt.Sprintf("crowd-%02d", i/crowdSessions) }

func memoryMeasure(sessions int) string { return fmt.Sprintf("memory/%d", sessions) }

// measureMemory opens sessions that run one query each, and then looks at the proxy.
func measureMemory(ctx context.Context, r *rig) error {
	for _, wanted := range r.mode.sessions {
		sessions, err := possibleSessions(wanted)
		if err != nil {
			return err
		}
		upstream := r.server.Port
		if sessions > realSessions {
			stub, err := r.startStub(ctx)
			if err != nil {
				return fmt.Errorf("starting the stub: %w", err)
			}
			defer r.stopProxy(stub)
			upstream = stub.port
		}
		for _, name := range r.opts.proxies {
			if name == haproxyName && sessions > realSessions {
				continue // it holds no TLS, so there is nothing to compare, and it takes two minutes
			}
			r.sayf("memory: %d sessions through %s", sessions, name)
			if err := r.measureSessions(ctx, name, upstream, wanted, sessions); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// possibleSessions is as many as a proxy can have files open for: two each, and some of its own.
func possibleSessions(wanted int) (int, error) {
	files, err := raiseFileLimit()
	return min(wanted, (files-300)/2), err
}

// raiseFileLimit lets us, and what we start, open as many files as we may, and says how many.
func raiseFileLimit() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	limit.Cur = limit.Max
	return int(min(limit.Max, 1<<20)), syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// measureSessions has a proxy of its own, which starts empty. One session before the others brings into memory what all
// share.
func (r *rig) measureSessions(ctx context.Context, name string, upstream, wanted, sessions int) error {
	p, err := r.startProxy(ctx, name, upstream)
	if err != nil {
		return err
	}
	defer r.stopProxy(p)
	conns := make([]*pgconn.PgConn, sessions+1)
	defer func() {
		closeAll(conns)
		debug.FreeOSMemory() // the next proxy may need it
	}()
	if conns[sessions], err = r.openSession(ctx, p, 0); err != nil {
		return err
	}
	if err := sleep(ctx, r.mode.settling); err != nil {
		return err
	}
	before, err := readMemory(p.process)
	if err != nil {
		return err
	}
	if sessions > realSessions {
		if err := r.measureBeside(ctx, p, 0, 0); err != nil {
			return err
		}
		if before, err = readMemory(p.process); err != nil {
			return err
		}
	}
	if err := r.openSessions(ctx, p, conns[:sessions]); err != nil {
		return err
	}
	if err := sleep(ctx, r.mode.settling); err != nil {
		return err
	}
	after, err := readMemory(p.process)
	if err != nil {
		return err
	}
	each := func(before, after int) float64 { return float64(after-before) / float64(sessions) }
	if sessions > realSessions {
		if err := r.measureBeside(ctx, p, wanted, sessions); err != nil {
			return err
		}
	}
	quantities := map[string]float64{
		quantityRSS: each(before.rss, after.rss), quantityPSS: each(before.pss, after.pss),
		quantityAnonymous: each(before.anonymous, after.anonymous), "sessions": float64(sessions),
	}
	if sessions <= realSessions && name != haproxyName { // it takes a minute, and holds no TLS
		if err := sleep(ctx, r.mode.later); err != nil {
			return err
		}
		later, err := readMemory(p.process)
		if err != nil {
			return err
		}
		quantities[quantityLater] = each(before.rss, later.rss)
	}
	r.results.add(memoryMeasure(wanted), name, quantities)
	return r.saveProfile(ctx, p, fmt.Sprintf("heap-%s-%d", name, wanted), "heap")
}

func besideMeasure(idle int) string { return fmt.Sprintf("growth/idle/%d", idle) }

// measureBeside has busySessions busy sessions beside idle ones, each with one question after the other, which the stub answers.
// There are as many idle ones as open files allow, wanted at most.
func (r *rig) measureBeside(ctx context.Context, p *proxy, wanted, idle int) error {
	script := r.file("question.sql")
	if err := os.WriteFile(script, []byte("SELECT abalance FROM pgbench_accounts WHERE aid = 1;\n"), 0o600); err != nil {
		return err
	}
	for range r.mode.rounds {
		t, err := r.runPgbench(ctx, p, pgbench{measure: besideMeasure(wanted), window: r.mode.window}, "-f", script, "-c", strconv.Itoa(busySessions))
		if err != nil {
			return err
		}
		quantities := t.quantities()
		quantities["sessions"] = float64(idle)
		r.results.add(besideMeasure(wanted), p.name, quantities)
	}
	return nil
}

func (r *rig) openSessions(ctx context.Context, p *proxy, conns []*pgconn.PgConn) error {
	return each(len(conns), opening, func(i int) (err error) {
		conns[i], err = r.openSession(ctx, p, i)
		return err
	})
}

func (r *rig) openSession(ctx context.Context, p *proxy, i int) (*pgconn.PgConn, error) {
	conn, err := r.connect(ctx, p, crowdUser(i))
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "SELECT abalance FROM pgbench_accounts WHERE aid = 1").ReadAll()
	return conn, err
}

// closeAll does not say goodbye: that would take long.
func closeAll(conns []*pgconn.PgConn) {
	for _, conn := range conns {
		if conn != nil {
			_ = conn.Conn().SetDeadline(time.Unix(1, 0)) // TLS would wait for its last word to be taken
			_ = conn.Conn().Close()
		}
	}
}
