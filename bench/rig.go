//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hourgate/hourgate/internal/devca"
	"github.com/hourgate/hourgate/internal/pgserver"
)

// Names of contestants, as results have them.
const (
	directName    = "direct"
	hourgateName  = "hourgate"
	baseName      = "base"            // another build of Hourgate
	pgbouncerName = "pgbouncer"       // keeps server connections
	freshName     = "pgbouncer-fresh" // opens one for each log-in, as a gate that works by session has to
	haproxyName   = "haproxy"
	copyName      = "copy" // the least that a proxy does, see copy.go
)

// rig is everything that runs: a server and the proxies in front of it.
type rig struct {
	opts    *options
	mode    mode
	stderr  io.Writer
	began   time.Time
	results *Results

	place     string // where they run now; "" before the first
	cores     []int  // of clients, proxies and server
	ownCores  []int  // of bench itself
	allowed   []int  // of all together
	folder    string
	programs  pgserver.Programs
	pgbench   string
	authority *devca.Authority
	password  string // of all users
	verifier  string // the same as PostgreSQL stores it
	binary    string // hourgate
	server    *pgserver.Server
	proxies   []*proxy // the direct connection comes first
	processes []*process
	lock      *os.File // held while it is our turn on this machine
}

// proxy is one contestant.
type proxy struct {
	name    string
	port    int
	process *process // nil of the direct connection
	folder  string   // of Hourgate's files; "" of others
	ops     string   // address of Hourgate's operator port; "" of others
	plain   bool     // without TLS
	profile string   // address of its profiles, if they are wanted
}

// newRig makes the folder of everything. What it returns is to be closed.
func newRig(ctx context.Context, o *options, stderr io.Writer) (*rig, error) {
	r := &rig{opts: o, mode: shortMode, stderr: stderr, began: time.Now(), password: strings.ToLower(rand.Text())}
	if o.full {
		r.mode = fullMode
	}
	if o.rounds > 0 {
		r.mode.rounds = o.rounds
	}
	var err error
	if r.programs, err = pgserver.FindPrograms(); err != nil {
		return nil, err
	}
	if r.pgbench, err = findProgram("pgbench", filepath.Dir(r.programs.Postgres)); err != nil {
		return nil, err
	}
	r.results = newResults(ctx, r)
	// A short path, because of the Unix socket's in it.
	if r.folder, err = os.MkdirTemp("/tmp", "hourgate-bench-"); err != nil {
		return nil, err
	}
	return r, os.Chmod(r.folder, 0o711) //nolint:gosec // the user postgres has to get through; the files are for us alone
}

func (r *rig) file(name string) string { return filepath.Join(r.folder, name) }

// sayf tells whoever waits what is going on.
func (r *rig) sayf(format string, args ...any) {
	passed := time.Since(r.began).Round(time.Second)
	fmt.Fprintf(r.stderr, "bench: %02d:%02d "+format+"\n", append([]any{int(passed.Minutes()), int(passed.Seconds()) % 60}, args...)...)
}

// start brings up the server.
func (r *rig) start(ctx context.Context) error {
	r.sayf("building and starting everything")
	if err := r.build(ctx); err != nil {
		return err
	}
	if err := r.awaitTurn(ctx); err != nil {
		return fmt.Errorf("waiting for other benchmarks: %w", err)
	}
	var err error
	if r.authority, err = devca.New("Hourgate benchmark CA", r.folder, 24*time.Hour); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	if err := r.startServer(ctx); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	return nil
}

// move lets everything run in a place from now on. The proxies are started anew there.
func (r *rig) move(ctx context.Context, place string) error {
	if r.place == place {
		return nil
	}
	if err := r.chooseCores(ctx, place); err != nil {
		return err
	}
	if err := r.pinServer(ctx); err != nil {
		return err
	}
	for _, p := range r.proxies {
		r.stopProxy(p)
	}
	r.proxies = []*proxy{{name: directName, port: r.server.Port}}
	proxies, _, err := r.beside(ctx, r.opts.proxies...)
	r.proxies = append(r.proxies, proxies...)
	r.place = place
	return err
}

// beside starts more contestants, in front of the server, which stop ends before their time.
func (r *rig) beside(ctx context.Context, names ...string) (proxies []*proxy, stop func(), err error) {
	stop = func() {
		for _, p := range proxies {
			r.stopProxy(p)
		}
	}
	for _, name := range names {
		p, err := r.startProxy(ctx, name, r.server.Port)
		if err != nil {
			stop()
			return nil, func() {}, fmt.Errorf("starting %s: %w", name, err)
		}
		proxies = append(proxies, p)
	}
	return proxies, stop, nil
}

// startProxy starts one in front of a server on this machine.
func (r *rig) startProxy(ctx context.Context, name string, upstream int) (*proxy, error) {
	switch name {
	case baseName:
		return r.startHourgate(ctx, name, r.opts.base, upstream, gateExtras{})
	case copyName:
		return r.startCopy(ctx, upstream)
	case haproxyName:
		return r.startHAProxy(ctx, upstream)
	case pgbouncerName, freshName:
		return r.startPgBouncer(ctx, name, upstream)
	default:
		return r.startHourgate(ctx, name, r.binary, upstream, gateExtras{})
	}
}

// stopProxy stops one before its time.
func (r *rig) stopProxy(p *proxy) {
	if p.process == nil {
		return
	}
	r.processes = slices.DeleteFunc(r.processes, func(running *process) bool { return running == p.process })
	if err := p.process.stop(); err != nil {
		r.sayf("%v", err)
	}
}

// close stops what runs and removes the folder.
func (r *rig) close() error {
	var errs []error
	for _, p := range slices.Backward(r.processes) {
		errs = append(errs, p.stop())
	}
	if r.server != nil {
		errs = append(errs, r.server.Stop())
	}
	if r.lock != nil {
		errs = append(errs, r.lock.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(r.folder))...)
}

// awaitTurn lets another run on this machine end first: two would measure each other.
func (r *rig) awaitTurn(ctx context.Context) (err error) {
	r.lock, err = os.OpenFile(filepath.Join(os.TempDir(), "hourgate-bench.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	for waiting := false; err == nil; waiting = true {
		err = syscall.Flock(int(r.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if !waiting {
			r.sayf("another run is under way; waiting for its end")
		}
		err = sleep(ctx, time.Second)
	}
	return err
}

// rounds calls turn for each contestant in each round, each round another one first.
func (r *rig) rounds(ctx context.Context, contestants []*proxy, turn func(ctx context.Context, p *proxy) error) error {
	for round := range r.mode.rounds {
		for i := range contestants {
			if err := r.turn(ctx, contestants[(i+round)%len(contestants)], turn); err != nil {
				return err
			}
		}
	}
	return nil
}

// turnLimit ends a turn that hangs. The longest takes some ten seconds.
const turnLimit = 2 * time.Minute

// turn is one of rounds. One that fails is told of, and tried once more: so one connection that is hung up on does not cost a
// run of half an hour.
func (r *rig) turn(ctx context.Context, p *proxy, turn func(ctx context.Context, p *proxy) error) error {
	for tries := 1; ; tries++ {
		err := r.limited(ctx, p, turn)
		if ended := r.alive(); ended != nil {
			return errors.Join(err, ended)
		}
		if err == nil {
			return nil
		}
		err = p.blame(err)
		if tries == 2 || ctx.Err() != nil {
			return err
		}
		r.sayf("trying again: %v", err)
	}
}

func (r *rig) limited(ctx context.Context, p *proxy, turn func(ctx context.Context, p *proxy) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, turnLimit, fmt.Errorf("took longer than %v", turnLimit))
	defer cancel()
	err := turn(ctx, p)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// blame says whose turn has failed, and shows what it has logged.
func (p *proxy) blame(err error) error {
	if p.process == nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return fmt.Errorf("%s: %w; its log:\n%s", p.name, err, p.process.logTail())
}

// alive reports who has ended by itself.
func (r *rig) alive() error {
	for _, p := range r.processes {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended by itself; its log:\n%s", p.name, p.logTail())
		default:
		}
	}
	select {
	case <-r.server.Exited():
		return errors.New("PostgreSQL ended by itself")
	default:
		return nil
	}
}

// cacheFolder is where scripts/install puts what it fetches.
func cacheFolder() string {
	if folder := os.Getenv("HOURGATE_CACHE"); folder != "" {
		return folder
	}
	return "/var/tmp/hourgate"
}

// findProgram looks in folders, then where Debian and scripts/install put programs, then on PATH.
func findProgram(name string, folders ...string) (string, error) {
	for _, folder := range append(folders, "/usr/sbin", "/usr/bin", filepath.Join(cacheFolder(), "bench", "bin")) {
		path := filepath.Join(folder, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("no %s on this machine; run scripts/install bench", name)
	}
	return path, nil
}

// sleep waits, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
