//go:build faults

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/testdisk"
)

// grantFor is how long the grant of a cell lasts from when the gate is up.
const grantFor = 8 * time.Second

// rig is a gate between two legs, in front of a server of its own, with a grant that ends soon.
type rig struct {
	t          *testing.T
	db         *pgtest.Database
	gate       *gatetest.Gate
	config     string
	process    *exec.Cmd
	upstream   *leg
	client     *leg
	state      *leg           // to the state, if the fault is about it
	disk       *testdisk.Disk // holds the trail, if the fault is about it
	serverDisk *testdisk.Disk // holds the server's data, if the fault is about it
	hosts      string         // file that knows the server's name, if the fault is about it
	replica    *pgtest.Server // of db's server, if the fault is about it
	program    string         // that is run; "" is gatetest.Binary

	operators string // YAML of who may lock

	until    time.Time
	marker   string
	marks    atomic.Int32
	writes   atomic.Int32
	promoted atomic.Bool

	asking    sync.Mutex
	asked     *pgx.Conn      // of ask
	witnessed *pgtest.Server // where that leads
}

func newRig(t *testing.T, major int, f fault) *rig {
	t.Helper()
	server := pgtest.New(t, major, pgtest.Options{Settings: map[string]string{"log_statement": "all", "max_connections": "40"}})
	var serverDisk *testdisk.Disk
	if f.onServerDisk {
		server.Stop(t, pgtest.Fast)
		serverDisk = testdisk.Over(t, server.DataDir(), serverDiskSize)
		t.Cleanup(func() { server.Stop(t, pgtest.Immediate) }) // before the disk goes
		server.Start(t)
	}
	r := &rig{t: t, serverDisk: serverDisk, db: server.Database(t), marker: fmt.Sprintf("mark_%d_%d", os.Getpid(), time.Now().UnixNano())}
	r.upstream = newLeg(t, server.Address())
	r.gate = gatetest.New(t, r.db)
	options := gatetest.Options{Config: map[string]string{"drain_timeout": "2s"}}
	if f.withState {
		options.Config["state"] = r.newState()
	}
	if f.withFiles {
		r.operators = "operators: {users: [" + gatetest.Bob + "]}\n"
		options.Config["state"] = "{file: " + filepath.Join(r.gate.Folder, "state.db") + "}"
		options.Config["discovery"] = "[{file: {path: servers.yaml, interval: 1s}}]"
		r.find("first")
	}
	r.config = r.gate.Configure(t, options)
	if f.synced {
		r.reconfigure("audit: {file: trail.jsonl}", "audit: {file: trail.jsonl, sync: true}")
	}
	r.reconfigure(fmt.Sprintf("port: %d", server.Port), fmt.Sprintf("port: %d", r.upstream.port()))
	if f.byName {
		r.nameServer()
	}
	if f.withReplica {
		r.replica = server.Replica(t)
	}
	if f.onDisk {
		r.disk = testdisk.New(t)
		r.reconfigure("audit: {file: trail.jsonl}", fmt.Sprintf("audit: {file: %q}", r.trail()))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the gate:\n%s", r.gate.Logs)
		}
	})
	r.until = time.Now().Add(grantFor)
	r.setGrants()
	r.start()
	if _, err := r.sessions(); err != nil { // opens the connection for what is asked later
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.asked.Close(context.Background()) })
	return r
}

// reconfigure replaces a part of config.yaml.
func (r *rig) reconfigure(old, replacement string) {
	r.t.Helper()
	config, err := os.ReadFile(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	if !bytes.Contains(config, []byte(old)) {
		r.t.Fatalf("config.yaml has no %q", old)
	}
	r.gate.Write(r.t, "config.yaml", strings.ReplaceAll(string(config), old, replacement))
}

func (r *rig) trail() string {
	if r.disk != nil {
		return filepath.Join(r.disk.Folder, "trail.jsonl")
	}
	return filepath.Join(r.gate.Folder, "trail.jsonl")
}

func (r *rig) grants() string {
	return gatetest.Grant("work", "access", "READ_WRITE", "until", r.until.UTC().Format(time.RFC3339Nano))
}

// setGrants writes the policy, which differs each time, so that the gate reads it again.
func (r *rig) setGrants() {
	r.gate.SetGrants(r.t, fmt.Sprintf("%s%s  # written %d times before\n", r.grants(), r.operators, r.writes.Add(1)-1))
}

// newState makes a database for the state, behind a leg of its own, and returns the configuration's part about it.
func (r *rig) newState() string {
	db := r.db.Server.Database(r.t)
	r.state = newLeg(r.t, r.db.Server.Address())
	secret := r.gate.Write(r.t, "state.json", fmt.Sprintf(`{"username": %q, "password": %q}`, db.Owner, db.OwnerPassword))
	return fmt.Sprintf("{postgres: {hostname: localhost, port: %d, database: %s, ssl_root_cert: %q, secret: {file: %q}}}",
		r.state.port(), db.Name, r.db.Server.CAFile, secret)
}

// start runs the gate's process, and leads the client's leg to the port that it has chosen.
func (r *rig) start() {
	r.t.Helper()
	if r.program == "" {
		r.program = gatetest.Binary(r.t)
	}
	r.process = r.gate.StartProgram(r.t, r.program, r.config)
	if r.client == nil {
		r.client = newLeg(r.t, r.gate.Addr)
	}
	r.client.lead(r.gate.Addr)
}

// restart ends the gate with a signal and starts it again.
func (r *rig) restart(signal syscall.Signal) {
	_ = r.process.Process.Signal(signal)
	_ = r.process.Wait()
	r.start()
}

// connect logs Alice in through the client's leg.
func (r *rig) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(fmt.Sprintf("host=localhost port=%d user=%s password='%s' dbname=orders sslmode=verify-full sslrootcert=%s",
		r.client.port(), gatetest.Alice, gatetest.AlicePassword, r.gate.CA))
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, config)
}

// mark is a comment that tells a statement in the server's log and in the trail.
func (r *rig) mark() string { return fmt.Sprintf("/* %s_%d */ ", r.marker, r.marks.Add(1)) }

// sessions counts those of ephemeral roles on the server.
func (r *rig) sessions() (int, error) {
	return r.count(`SELECT count(*) FROM pg_stat_activity WHERE usename ~ '^hg_'`)
}

// roles counts the ephemeral roles that are left.
func (r *rig) roles() (int, error) {
	return r.count(`SELECT count(*) FROM pg_roles WHERE rolname ~ '^hg_'`)
}

// count asks the server, which is the replica once that was promoted, for a number.
func (r *rig) count(query string) (n int, err error) { return n, r.ask(query, &n) }

// ask asks over a connection that is open already: logging in takes its time on a busy machine, and is not what is measured.
func (r *rig) ask(query string, answer any) error {
	r.asking.Lock()
	defer r.asking.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := r.witness(ctx)
	if err != nil {
		return err
	}
	return conn.QueryRow(ctx, query).Scan(answer)
}

// witness returns the connection of ask, and opens it if need be; asking is held.
func (r *rig) witness(ctx context.Context) (*pgx.Conn, error) {
	server := r.db.Server
	if r.promoted.Load() {
		server = r.replica
	}
	if r.witnessed == server && r.asked != nil && !r.asked.IsClosed() {
		return r.asked, nil
	}
	if r.asked != nil {
		_ = r.asked.Close(ctx)
	}
	var err error
	r.witnessed = server
	r.asked, err = pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", server.SocketDir, server.Port))
	return r.asked, err
}

// run runs a statement as the superuser.
func (r *rig) run(statement string) {
	conn, err := pgx.Connect(context.Background(), fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", r.db.Server.SocketDir, r.db.Server.Port))
	if err == nil {
		defer conn.Close(context.Background())
		_, err = conn.Exec(context.Background(), statement)
	}
	if err != nil {
		r.t.Errorf("%s: %v", statement, err)
	}
}

// zeroWithin waits until a count is 0, and returns how long that took. An answer that comes too late says nothing.
func zeroWithin(limit time.Duration, count func() (int, error)) (time.Duration, error) {
	began := time.Now()
	for {
		n, err := count()
		took := time.Since(began)
		if err == nil && n == 0 && took <= limit {
			return took, nil
		}
		if took > limit {
			return took, errors.Join(fmt.Errorf("still %d after %v", n, took.Round(time.Millisecond)), err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// stop ends the gate, so that all of the trail is written.
func (r *rig) stop() {
	_ = r.process.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- r.process.Wait() }()
	select {
	case <-done:
	case <-time.After(40 * time.Second):
		r.t.Errorf("the gate does not stop")
		_ = r.process.Process.Kill()
	}
}

// checkTrail holds the trail against its own chain and against the server's log.
func (r *rig) checkTrail() {
	r.t.Helper()
	content, err := os.ReadFile(r.trail())
	if err != nil {
		r.t.Error(err)
		return
	}
	if _, err := audit.Verify(bytes.NewReader(content)); err != nil {
		r.t.Errorf("the trail: %v", err)
	}
	recorded := make(map[string]bool)
	mark := regexp.MustCompile(regexp.QuoteMeta(r.marker) + `_\d+ `)
	for _, m := range mark.FindAllString(string(content), -1) {
		recorded[m] = true
	}
	log := r.db.Server.Log()
	if r.replica != nil {
		log += r.replica.Log()
	}
	for _, m := range mark.FindAllString(log, -1) {
		if !recorded[m] {
			r.t.Errorf("the server ran a statement that the trail misses: %s", m)
		}
	}
}

// ended reports whether an error is that of a connection that is over, or nil.
func ended(err error) bool {
	return err == nil || !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), context.DeadlineExceeded.Error())
}
