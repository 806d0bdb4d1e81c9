//go:build faults

package faults

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

var (
	update = flag.Bool("update", false, "write the cells that were run into the table")
	table  = flag.String("table", "../docs/reliability.md", "the file with the table")
)

// A fault is something that breaks. strike returns what mends it, nil if it mends itself.
type fault struct {
	name         string
	onDisk       bool // the trail is on a disk of its own
	onServerDisk bool // the server's data is on a disk of its own
	byName       bool // the gate knows the server by a name that can be taken away
	withReplica  bool // the server has a replica
	withState    bool // the gate has a state, in PostgreSQL
	withFiles    bool // the gate has a state, in a file, and somebody who may lock
	synced       bool // each record of the trail is forced to the disk
	away         bool // nothing of the gate's can reach the server until it is mended
	mute         bool // the client can't be told
	over         bool // the grant is over for the gate as soon as it is struck
	strike       func(r *rig) (mend func())
}

var allFaults = []fault{
	{name: "none", strike: func(*rig) func() { return nil }},

	{name: "server stopped", away: true, strike: func(r *rig) func() {
		r.db.Server.Stop(r.t, pgtest.Fast)
		return func() { r.db.Server.Start(r.t) }
	}},
	{name: "server killed", away: true, strike: func(r *rig) func() {
		r.db.Server.Kill(r.t)
		return func() { r.db.Server.Start(r.t) }
	}},
	{name: "server hung", away: true, strike: func(r *rig) func() { return r.db.Server.Hang(r.t) }},
	{name: "server full", strike: fillServer},
	{name: "server's disk full", onServerDisk: true, strike: func(r *rig) func() { return fillDisk(r.serverDisk) }},
	{name: "server dies of a full disk", onServerDisk: true, away: true, strike: fillWAL},
	{name: "server's name unknown", byName: true, away: true, strike: unname},
	{name: "synchronous standby away", strike: func(r *rig) func() {
		set := func(how string) { r.run("ALTER SYSTEM " + how); r.run("SELECT pg_reload_conf()") }
		set("SET synchronous_standby_names = 'away'")
		return func() { set("RESET synchronous_standby_names") }
	}},

	{name: "upstream leg cut", strike: func(r *rig) func() { r.upstream.cut(false); return nil }},
	{name: "upstream leg reset", strike: func(r *rig) func() { r.upstream.cut(true); return nil }},
	{name: "upstream leg refuses", away: true, strike: func(r *rig) func() {
		r.upstream.set(true, false, 0)
		r.upstream.cut(false)
		return func() { r.upstream.set(false, false, 0) }
	}},
	{name: "upstream leg dark", away: true, strike: func(r *rig) func() { r.upstream.darken(); return r.upstream.lit }},
	{name: "upstream leg slow", strike: func(r *rig) func() {
		r.upstream.set(false, false, 50*time.Millisecond)
		return func() { r.upstream.set(false, false, 0) }
	}},
	{name: "upstream leg in single bytes", strike: func(r *rig) func() {
		r.upstream.set(false, true, 0)
		return func() { r.upstream.set(false, false, 0) }
	}},

	{name: "client leg cut", mute: true, strike: func(r *rig) func() { r.client.cut(false); return nil }},
	{name: "client leg reset", mute: true, strike: func(r *rig) func() { r.client.cut(true); return nil }},
	{name: "client leg dark", mute: true, strike: func(r *rig) func() { r.client.darken(); return r.client.lit }},
	{name: "client leg slow", strike: func(r *rig) func() {
		r.client.set(false, false, 50*time.Millisecond)
		return func() { r.client.set(false, false, 0) }
	}},

	{name: "client leg in single bytes", strike: func(r *rig) func() {
		r.client.set(false, true, 0)
		return func() { r.client.set(false, false, 0) }
	}},

	{name: "gate killed", away: true, mute: true, strike: func(r *rig) func() { r.restart(syscall.SIGKILL); return nil }},
	{name: "gate stopped", away: true, strike: func(r *rig) func() { r.restart(syscall.SIGTERM); return nil }},
	{name: "gate suspended", away: true, strike: func(r *rig) func() {
		_ = r.process.Process.Signal(syscall.SIGSTOP)
		return func() { _ = r.process.Process.Signal(syscall.SIGCONT) }
	}},
	{name: "clock put forward", over: true, strike: func(r *rig) func() { return setClock(r, time.Hour, false) }},
	{name: "clock put back", strike: func(r *rig) func() { return setClock(r, -time.Hour, false) }},
	{name: "clock put back before a reload", strike: func(r *rig) func() { return setClock(r, -time.Hour, true) }},
	{name: "machine suspended", away: true, strike: suspendMachine},
	{name: "gate out of memory", away: true, mute: true, strike: func(r *rig) func() { starve(r); return nil }},
	{name: "gate out of descriptors", strike: func(r *rig) func() {
		limit(r, "0")
		return func() { limit(r, "1024") }
	}},

	{name: "trail's disk frozen", onDisk: true, strike: func(r *rig) func() { r.disk.Freeze(); return r.disk.Thaw }},
	{name: "trail's disk full", onDisk: true, strike: func(r *rig) func() { return fillDisk(r.disk) }},
	{name: "trail's disk read-only", onDisk: true, strike: func(r *rig) func() { return r.disk.Protect() }},

	{name: "disks hang for fsync", withFiles: true, synced: true, strike: hangs("fsync,fdatasync")},
	{name: "disks hang for rename", withFiles: true, strike: hangs("rename,renameat,renameat2")},
	{name: "disks hang for open and unlink", withFiles: true, strike: hangs("openat,unlinkat,unlink", ".", "policy.yaml", "config.yaml", "secret.json",
		"trail.jsonl", "trail.jsonl.spool", "trail.jsonl.locks", "trail.jsonl.state", "trail.jsonl.names", "state.db", "state.db-wal", "state.db-journal")},

	{name: "server failed over", away: true, withReplica: true, strike: failOver},
	{name: "secret store away", strike: func(r *rig) func() {
		secret := filepath.Join(r.gate.Folder, "secret.json")
		_ = os.Rename(secret, secret+".away")
		_, _ = r.count(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename ~ '^admin_'`)
		return func() { _ = os.Rename(secret+".away", secret) }
	}},
	{name: "secret rotated", strike: rotate},
	{name: "server answers noise", away: true, strike: impostor(babble)},
	{name: "server answers nothing", away: true, strike: impostor(silence)},
	{name: "server announces two gigabytes", away: true, strike: impostor(boast)},
	{name: "server hangs up on everybody", away: true, strike: impostor(hangUp)},
	{name: "storm of SIGHUPs", strike: storm},
	{name: "another gate killed", strike: neighbour},
	{name: "state away", withState: true, strike: func(r *rig) func() {
		r.state.set(true, false, 0)
		r.state.cut(false)
		return func() { r.state.set(false, false, 0) }
	}},
}

// A moment is when it breaks. do works until it is over, and calls now when the moment has come.
type moment struct {
	name string
	late time.Duration // the moment comes so long before the grant's end; 0: as soon as the work has begun
	do   func(ctx context.Context, r *rig, now func()) error
}

var allMoments = []moment{
	{name: "log-in", do: func(ctx context.Context, r *rig, now func()) error {
		go now()
		return work(ctx, r, func() {}, "SELECT 1")
	}},
	{name: "statement", do: func(ctx context.Context, r *rig, now func()) error {
		return work(ctx, r, now, "SELECT pg_sleep(60)")
	}},
	{name: "statement that ignores cancel", do: func(ctx context.Context, r *rig, now func()) error {
		return work(ctx, r, now, "DO $$ BEGIN FOR i IN 1..1200 LOOP BEGIN PERFORM pg_sleep(0.05); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$")
	}},
	{name: "COPY", do: func(ctx context.Context, r *rig, now func()) error {
		conn, err := r.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		now()
		_, err = conn.PgConn().CopyTo(ctx, io.Discard, r.mark()+"COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000000)) TO STDOUT")
		return err
	}},
	{name: "idle", do: idle},
	{name: "idle in a transaction", do: func(ctx context.Context, r *rig, now func()) error {
		conn, err := r.connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(ctx, r.mark()+"BEGIN"); err != nil {
			return err
		}
		now()
		_, err = conn.WaitForNotification(ctx)
		return err
	}},
	{name: "the end", late: 100 * time.Millisecond, do: idle},
	{name: "settling", late: -20 * time.Millisecond, do: idle},
	{name: "reload", do: func(ctx context.Context, r *rig, now func()) error {
		return idle(ctx, r, func() { r.setGrants(); now() })
	}},
}

// idle logs in, does something, and waits for what the server or the gate say.
func idle(ctx context.Context, r *rig, now func()) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(ctx, r.mark()+"SELECT 1"); err != nil {
		return err
	}
	now()
	_, err = conn.WaitForNotification(ctx)
	return err
}

// work logs in and runs a statement.
func work(ctx context.Context, r *rig, now func(), statement string) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	now()
	_, err = conn.Exec(ctx, r.mark()+statement)
	return err
}

const (
	breaksFor   = 3 * time.Second // after the grant's end it is mended
	hangLimit   = 30 * time.Second
	endLimit    = 2 * time.Second // a second, and one for a machine that runs eight cells at a time
	mendedLimit = 10 * time.Second
	cleanLimit  = 45 * time.Second
)

// TestFaults: every fault at every moment.
func TestFaults(t *testing.T) {
	gatetest.Binary(t) // built before the clock of any grant runs
	var mu sync.Mutex
	results := make(map[string]string)
	t.Run("all", func(t *testing.T) {
		for i, f := range allFaults {
			for j, m := range allMoments {
				major := []int{15, 18, 13}[(i+j)%3]
				t.Run(f.name+"/"+m.name, func(t *testing.T) {
					t.Parallel()
					took := cell(t, f, m, major)
					mu.Lock()
					defer mu.Unlock()
					results[f.name+"/"+m.name] = map[bool]string{false: took, true: "**fails**"}[t.Failed()]
				})
			}
		}
	})
	if *update {
		writeTable(t, *table, results)
	}
}

// cell breaks one thing at one moment, and returns how long after the grant's end, or after it was mended, the server's last
// session of the grant was gone.
func cell(t *testing.T, f fault, m moment, major int) string {
	r := newRig(t, major, f)
	var mend func()
	broken := make(chan struct{})
	now := sync.OnceFunc(func() {
		go func() {
			defer close(broken)
			if m.late != 0 {
				sleepUntil(r.until.Add(-m.late))
			}
			mend = f.strike(r)
		}()
	})
	ctx, cancel := context.WithTimeout(t.Context(), grantFor+hangLimit)
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- m.do(ctx, r, now) }()

	if f.over {
		waitFor(broken, r.until)
	} else {
		sleepUntil(r.until)
	}
	now() // at the latest: the log-in may have been refused
	took := "–"
	if !f.away {
		gone, err := zeroWithin(endLimit, r.sessions)
		if err != nil {
			t.Errorf("sessions past the grant's end: %v", err)
		}
		took = fmt.Sprintf("%.1f s", gone.Seconds())
	}
	<-broken
	sleepUntil(r.until.Add(breaksFor))
	if mend != nil {
		mend()
	}
	if f.away {
		gone, err := zeroWithin(mendedLimit, r.sessions)
		if err != nil {
			t.Errorf("sessions after the fault was mended: %v", err)
		}
		took = fmt.Sprintf("%.1f s", gone.Seconds())
	}
	if err := <-over; !ended(err) && !f.mute {
		t.Errorf("the client was neither answered nor cut: %v", err)
	}
	if _, err := zeroWithin(cleanLimit, r.roles); err != nil {
		t.Errorf("roles after the fault was mended: %v", err)
	}
	r.stop()
	r.checkTrail()
	return took
}

// sleepUntil waits for a moment that the test is about.
func sleepUntil(t time.Time) { <-time.After(time.Until(t)) }

// waitFor waits for something that happens, until a moment at the latest.
func waitFor(happened <-chan struct{}, latest time.Time) {
	select {
	case <-happened:
	case <-time.After(time.Until(latest)):
	}
}

// limit sets how many descriptors the gate may have.
func limit(r *rig, soft string) {
	out, err := exec.Command("prlimit", fmt.Sprintf("--pid=%d", r.process.Process.Pid), "--nofile="+soft+":").CombinedOutput()
	if err != nil {
		r.t.Errorf("prlimit: %v\n%s", err, out)
	}
}

// impostor cuts all connections to the server and has new ones answered by somebody else.
func impostor(answers func(net.Conn)) func(r *rig) func() {
	return func(r *rig) func() {
		r.upstream.answer(answers)
		r.upstream.cut(false)
		return func() { r.upstream.answer(nil) }
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// rotate gives the admin another password, ends its connections, and puts the password into the secret.
func rotate(r *rig) func() {
	const password = "another password of the admin"
	r.run(fmt.Sprintf(`ALTER ROLE %s PASSWORD '%s'`, r.db.Admin, password))
	_, _ = r.count(fmt.Sprintf(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '%s'`, r.db.Admin))
	r.gate.Write(r.t, "secret.json", fmt.Sprintf(`{"username": %q, "password": %q}`, r.db.Admin, password))
	return nil
}

// storm tells the gate to reload two hundred times a second.
func storm(r *rig) (mend func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	process := r.process.Process
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = process.Signal(syscall.SIGHUP)
			case <-stop:
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// neighbour starts another gate of the same deployment, logs Alice in there, and kills it. Her role there is the other gate's to
// end.
func neighbour(r *rig) func() {
	other := gatetest.New(r.t, r.db)
	config := other.Configure(r.t, gatetest.Options{})
	other.SetGrants(r.t, r.grants())
	process := other.StartProgram(r.t, r.program, config)
	conn, err := pgx.Connect(context.Background(), fmt.Sprintf("host=localhost port=%s user=%s password='%s' dbname=orders sslmode=verify-full sslrootcert=%s",
		other.Addr[strings.LastIndex(other.Addr, ":")+1:], gatetest.Alice, gatetest.AlicePassword, other.CA))
	if err == nil {
		defer conn.Close(context.Background())
	}
	_ = process.Process.Kill()
	_ = process.Wait()
	return nil
}
