//go:build linux

package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	loginMeasure = "login"
	firstMeasure = "first login"

	busyLoginMeasure = "login beside busy sessions"
	busySessions     = 32
)

// Quantities of firstMeasure, milliseconds for one log-in.
const (
	quantityFirst = "first" // the role is made
	quantityWarm  = "warm"  // the role is there; for the direct connection, any log-in
)

// measureLogin connects, asks one question and disconnects, eight clients at once.
func measureLogin(ctx context.Context, r *rig) error {
	contestants := slices.Clone(r.proxies)
	if slices.ContainsFunc(contestants, func(p *proxy) bool { return p.name == pgbouncerName }) {
		fresh, stop, err := r.beside(ctx, freshName)
		if err != nil {
			return err
		}
		defer stop()
		contestants = append(contestants, fresh...)
	}
	r.sayf("log-ins")
	for _, p := range contestants {
		conn, err := r.connect(ctx, p, benchUser) // Hourgate makes the role
		if err != nil {
			return p.blame(err)
		}
		_ = conn.Close(ctx)
	}
	err := r.rounds(ctx, contestants, func(ctx context.Context, p *proxy) error {
		t, err := r.runPgbench(ctx, p, pgbench{measure: loginMeasure, window: r.mode.loginWindow, connecting: true}, "-S", "-C", "-c", "8", "-j", "8")
		if err != nil {
			return err
		}
		r.results.add(at(r.place, loginMeasure), p.name, t.quantities())
		return nil
	})
	if err != nil || r.place != oneCore {
		return err
	}
	return r.measureFirstLogin(ctx)
}

// measureBusyLogin is measureLogin beside busySessions sessions of the same contestant that ask one question after the other.
func measureBusyLogin(ctx context.Context, r *rig) error {
	r.sayf("log-ins beside %d busy sessions", busySessions)
	return r.rounds(ctx, r.proxies, func(ctx context.Context, p *proxy) error {
		ctx, cancel := context.WithCancel(ctx)
		busy := r.client(ctx, p, r.pgbench, "-n", "-S", "-T", "3600", "-c", strconv.Itoa(busySessions))
		if err := busy.Start(); err != nil {
			cancel()
			return err
		}
		defer busy.Wait() //nolint:errcheck // it is killed
		defer cancel()
		t, err := r.runPgbench(ctx, p, pgbench{measure: busyLoginMeasure, window: r.mode.loginWindow, connecting: true}, "-S", "-C", "-c", "8", "-j", "8")
		if err != nil {
			return err
		}
		r.results.add(at(r.place, busyLoginMeasure), p.name, t.quantities())
		return nil
	})
}

// measureFirstLogin lets people in who have not been seen before, one after the other. We are the client, so for this
// time we share the contestants' core.
func (r *rig) measureFirstLogin(ctx context.Context) error {
	r.sayf("first log-ins")
	if err := pin(ctx, os.Getpid(), r.cores); err != nil {
		return err
	}
	defer pin(context.WithoutCancel(ctx), os.Getpid(), r.ownCores) //nolint:errcheck // it has worked before
	contestants := slices.DeleteFunc(slices.Clone(r.proxies), func(p *proxy) bool { return p.name != directName && p.ops == "" })
	for i := range r.mode.firstLogins {
		for _, p := range contestants {
			user := benchUser
			quantities := map[string]float64{}
			if p.name != directName {
				user = firstUser(i)
				first, err := r.timeLogin(ctx, p, user)
				if err != nil {
					return p.blame(err)
				}
				quantities[quantityFirst] = first
			}
			warm, err := r.timeLogin(ctx, p, user)
			if err != nil {
				return p.blame(err)
			}
			quantities[quantityWarm] = warm
			r.results.add(firstMeasure, p.name, quantities)
		}
	}
	return nil
}

// timeLogin is how many milliseconds it takes from dialling to the first prompt.
func (r *rig) timeLogin(ctx context.Context, p *proxy, user string) (float64, error) {
	began := time.Now()
	conn, err := r.connect(ctx, p, user)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took.Seconds() * 1000, conn.Close(ctx)
}

// connect logs in from this process.
func (r *rig) connect(ctx context.Context, p *proxy, user string) (*pgconn.PgConn, error) {
	return r.connectTo(ctx, p, user, benchDatabase)
}

// connectTo logs in to a database, or to what a proxy calls so.
func (r *rig) connectTo(ctx context.Context, p *proxy, user, database string) (*pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return pgconn.Connect(ctx, "host=localhost port="+strconv.Itoa(p.port)+" user="+user+" password="+r.password+
		" dbname="+database+" sslmode=verify-full sslrootcert="+r.authority.CertFile)
}
