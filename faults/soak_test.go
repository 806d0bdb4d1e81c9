//go:build faults

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/testdisk"
	"github.com/hourgate/hourgate/internal/verifier"
)

const (
	people       = 8
	sampleEvery  = 10 * time.Second
	lateAfter    = 2 * time.Second  // a session that is on the server so long after its grant's end is late
	recoversIn   = 15 * time.Second // after a fault that keeps the gate from the server
	killsUntil   = 0.25             // of the time: the process that is alive then is the one whose slopes are taken
	longestGrant = 40 * time.Second
)

// soak is people who work under short grants for a long time, while something breaks every few seconds.
type soak struct {
	*rig
	random *rand.Rand // of the faults' goroutine

	mu     sync.Mutex
	grants map[string]string // YAML by name

	statements, sessions, refused, faults atomic.Int64
	excused                               atomic.Int64 // until when a late session may be for a fault's sake: nanoseconds since 1970
	samples                               []sample

	fault  atomic.Pointer[string] // the last
	struck atomic.Int64           // when it began
}

// sample is what the gate's process takes at one moment.
type sample struct {
	at                                time.Time
	pid                               int
	resident, descriptors, goroutines float64
}

// TestSoak runs for HOURGATE_SOAK, an hour if that is not set, with the faults that HOURGATE_SEED gives, and prints slopes.
func TestSoak(t *testing.T) {
	length := time.Hour
	if text := os.Getenv("HOURGATE_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed, _ := strconv.ParseUint(os.Getenv("HOURGATE_SEED"), 10, 64)
	s := newSoak(t, seed)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var running sync.WaitGroup
	for person := range people {
		running.Go(func() { s.person(ctx, person, rand.New(rand.NewPCG(seed, uint64(person)))) })
	}
	running.Go(func() { s.watch(ctx) })
	running.Go(func() { s.sample(ctx) })
	s.breakThings(ctx, time.Now().Add(time.Duration(float64(length)*killsUntil)))
	running.Wait()

	if _, err := zeroWithin(time.Minute, s.roles); err != nil {
		t.Errorf("roles at the end: %v", err)
	}
	s.stop()
	s.checkTrail()
	t.Logf("seed %d, %v: %d faults, %d sessions, %d log-ins refused, %d statements",
		seed, length, s.faults.Load(), s.sessions.Load(), s.refused.Load(), s.statements.Load())
	s.slopes()
}

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	program := filepath.Join(t.TempDir(), "hourgate") // without the race detector, whose memory says nothing
	if out, err := exec.Command("go", "build", "-o", program, "github.com/hourgate/hourgate/cmd/hourgate").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	server := pgtest.New(t, 16, pgtest.Options{Settings: map[string]string{"log_statement": "all", "max_connections": "60"}})
	r := &rig{t: t, db: server.Database(t), marker: fmt.Sprintf("soak_%d", time.Now().UnixNano()), program: program}
	r.upstream = newLeg(t, server.Address())
	r.gate = gatetest.New(t, r.db)
	none := "none"
	s := &soak{rig: r, random: rand.New(rand.NewPCG(seed, 1<<32)), grants: make(map[string]string)}
	r.config = r.gate.Configure(t, gatetest.Options{LogLevel: "WARN", Config: map[string]string{"drain_timeout": "2s", "role_linger": "2s", "state": r.newState()}})
	s.fault.Store(&none)
	s.writePolicy()
	r.reconfigure(fmt.Sprintf("hostname: localhost\n    port: %d", server.Port), fmt.Sprintf("hostname: localhost\n    port: %d", r.upstream.port()))
	r.disk = testdisk.NewSize(t, 1<<30)
	r.reconfigure("audit: {file: trail.jsonl}", fmt.Sprintf("audit: {file: %q}", r.trail()))
	r.reconfigure("log_level: WARN", "log_level: INFO") // StartProgram waits for a line of it
	r.start()
	t.Cleanup(func() {
		if t.Failed() {
			log := r.gate.Logs.String()
			t.Logf("log of the gate, its end:\n%s", log[max(0, len(log)-200_000):])
		}
	})
	return s
}

var soakVerifier = sync.OnceValue(func() string {
	v, err := verifier.New(gatetest.AlicePassword, verifier.DefaultIterations)
	if err != nil {
		panic(err)
	}
	return v.Encode()
})

// writePolicy writes people and the grants that there are; s.mu is held, or nobody else is there yet.
func (s *soak) writePolicy() {
	var b strings.Builder
	b.WriteString("users:\n")
	for person := range people {
		fmt.Fprintf(&b, "  - {name: p%d, scram: %q}\n", person, soakVerifier())
	}
	b.WriteString("grants:\n" + gatetest.Grant("nobody", "users", "[p0]", "until", "2020-01-01T00:00:00Z"))
	for _, grant := range s.grants {
		b.WriteString(grant)
	}
	s.gate.Write(s.t, "policy.yaml", b.String())
}

// grant gives a person another grant, in place of the one before. An empty name takes it away.
func (s *soak) grant(person int, name, level string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprintf("p%d", person)
	delete(s.grants, key)
	if name != "" {
		s.grants[key] = gatetest.Grant(name, "users", "["+key+"]", "access", level, "until", until.UTC().Format(time.RFC3339Nano))
	}
	s.writePolicy()
}

// person works under one grant after the other, each of which ends, is moved, or is withdrawn.
func (s *soak) person(ctx context.Context, person int, random *rand.Rand) {
	levels := []string{"READ_ONLY", "READ_WRITE", "ADMIN"}
	for n := 0; ctx.Err() == nil; n++ {
		name, level := fmt.Sprintf("g%d-%d", person, n), levels[random.IntN(len(levels))]
		until := time.Now().Add(3*time.Second + time.Duration(random.Int64N(int64(longestGrant-3*time.Second))))
		s.grant(person, name, level, until)
		switch random.IntN(6) {
		case 0: // it is withdrawn meanwhile
			time.AfterFunc(time.Until(until)/2, func() { s.grant(person, "", "", time.Time{}) })
		case 1: // it is prolonged
			later := until.Add(5 * time.Second)
			time.AfterFunc(time.Until(until)/2, func() { s.grant(person, name, level, later) })
			until = later
		}
		for time.Now().Before(until) && ctx.Err() == nil {
			s.session(ctx, person, level, until, random)
			pause(ctx, time.Duration(50+random.IntN(500))*time.Millisecond)
		}
	}
	s.grant(person, "", "", time.Time{})
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// session is one log-in and what is done in it until somebody ends it.
func (s *soak) session(ctx context.Context, person int, level string, until time.Time, random *rand.Rand) {
	ctx, cancel := context.WithDeadline(ctx, until.Add(hangLimit))
	defer cancel()
	config, err := pgx.ParseConfig(fmt.Sprintf("host=localhost port=%d user=p%d password='%s' dbname=orders sslmode=verify-full sslrootcert=%s",
		s.client.port(), person, gatetest.AlicePassword, s.gate.CA))
	if err != nil {
		s.t.Error(err)
		return
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		s.refused.Add(1)
		return
	}
	defer conn.Close(context.Background())
	s.sessions.Add(1)
	for err == nil {
		s.statements.Add(1)
		_, err = conn.Exec(ctx, s.mark()+s.statement(level, random))
		pause(ctx, time.Duration(20+random.IntN(400))*time.Millisecond)
		if random.IntN(100) == 0 {
			return
		}
	}
	if ctx.Err() != nil && time.Now().After(until.Add(hangLimit)) {
		s.t.Errorf("a session of p%d was neither answered nor cut until %v after its end", person, hangLimit)
	}
}

func (s *soak) statement(level string, random *rand.Rand) string {
	statements := []string{"SELECT count(*) FROM orders", "SELECT pg_sleep(0.3)", "BEGIN", "COMMIT", "CREATE TEMP TABLE IF NOT EXISTS t AS SELECT 1", "SELECT * FROM customers"}
	if level != "READ_ONLY" {
		statements = append(statements, fmt.Sprintf("UPDATE orders SET note = 'soak' WHERE id = %d", 1+random.IntN(300)))
	}
	if level == "ADMIN" {
		statements = append(statements, fmt.Sprintf("CREATE TABLE IF NOT EXISTS mine_%d (v int)", random.IntN(5)),
			"CREATE OR REPLACE FUNCTION mine() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")
	}
	return statements[random.IntN(len(statements))]
}

// breakThings breaks one thing after the other until ctx is done, and ends the gate's process only before a moment.
func (s *soak) breakThings(ctx context.Context, killsBefore time.Time) {
	for ctx.Err() == nil {
		f := allFaults[s.random.IntN(len(allFaults))]
		ends := strings.HasPrefix(f.name, "gate killed") || strings.HasPrefix(f.name, "gate stopped") || strings.HasPrefix(f.name, "gate out of memory")
		if f.withReplica || f.name == "none" || f.name == "secret rotated" || f.name == "another gate killed" || ends && time.Now().After(killsBefore) {
			continue
		}
		lasts := time.Second + time.Duration(s.random.Int64N(int64(4*time.Second)))
		s.faults.Add(1)
		s.fault.Store(&f.name)
		s.struck.Store(time.Now().UnixNano())
		s.excuse(f, lasts+time.Minute) // until it is known when it was mended
		mend := f.strike(s.rig)
		pause(ctx, lasts)
		if mend != nil {
			mend()
		}
		s.excuse(f, recoversIn)
		pause(ctx, time.Duration(5+s.random.IntN(15))*time.Second)
	}
}

// excuse says how long sessions may be late.
func (s *soak) excuse(f fault, d time.Duration) {
	if f.away {
		s.excused.Store(time.Now().Add(d).UnixNano())
	}
}

// watch looks for sessions on the server that outlive their grant.
func (s *soak) watch(ctx context.Context) {
	late := fmt.Sprintf(`FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
		WHERE r.rolname ~ '^hg_' AND (shobj_description(r.oid, 'pg_authid')::json->>'until')::timestamptz < clock_timestamp() - '%d ms'::interval`, lateAfter.Milliseconds())
	for ctx.Err() == nil {
		before := time.Now().UnixNano()
		n, err := s.count("SELECT count(*) " + late)
		if err == nil && n > 0 && before > s.excused.Load() {
			var who string
			_ = s.ask("SELECT string_agg(concat_ws(' ', a.pid, r.rolname, r.rolcanlogin, r.rolvaliduntil, a.state, a.backend_start, a.state_change, a.query, shobj_description(r.oid, 'pg_authid')), E'\\n') "+late, &who)

			s.t.Errorf("%v: %d sessions are on the server %v after their grants' ends; the last fault was %s, %v ago:\n%s",
				time.Now().UTC(), n, lateAfter, *s.fault.Load(), time.Since(time.Unix(0, s.struck.Load())).Round(time.Millisecond), who)
		}
		pause(ctx, 200*time.Millisecond)
	}
}

var goroutines = regexp.MustCompile(`(?m)^go_goroutines (\d+)`)

// sample looks at the gate's process now and then.
func (s *soak) sample(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, sampleEvery) {
		pid := s.process.Process.Pid
		if time.Now().UnixNano() < s.excused.Load() { // a gate that is stopped does not answer
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		fds, fdsErr := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		_, resident, found := strings.Cut(string(status), "RssAnon:")
		if err != nil || fdsErr != nil || !found {
			continue
		}
		_, page := s.gate.Get(s.t, "/metrics")
		count := goroutines.FindStringSubmatch(page)
		if count == nil {
			continue
		}
		running, _ := strconv.ParseFloat(count[1], 64)
		kib, _ := strconv.ParseFloat(strings.Fields(resident)[0], 64)
		s.samples = append(s.samples, sample{time.Now(), pid, kib / 1024, float64(len(fds)), running})
	}
}

// slopes prints how what the last process takes has grown, by least squares, past its first minute.
func (s *soak) slopes() {
	s.t.Helper()
	var last []sample
	for _, x := range s.samples {
		if x.pid == s.samples[len(s.samples)-1].pid {
			last = append(last, x)
		}
	}
	if len(last) < 12 {
		s.t.Errorf("%d samples of the last process are too few", len(last))
		return
	}
	last = last[6:]
	s.t.Logf("%d samples of one process in %v", len(last), last[len(last)-1].at.Sub(last[0].at).Round(time.Second))
	for _, quantity := range []struct {
		name string
		of   func(sample) float64
	}{
		{"anonymous MiB", func(x sample) float64 { return x.resident }},
		{"descriptors", func(x sample) float64 { return x.descriptors }},
		{"goroutines", func(x sample) float64 { return x.goroutines }},
	} {
		slope, mean, highest := fit(last, quantity.of)
		s.t.Logf("%-13s mean %.1f, highest %.1f, slope %+.2f an hour", quantity.name, mean, highest, slope)
	}
}

// fit returns the slope an hour of a quantity, its mean, and its highest value.
func fit(samples []sample, of func(sample) float64) (slope, mean, highest float64) {
	var hours float64
	for _, x := range samples {
		mean += of(x) / float64(len(samples))
		hours += x.at.Sub(samples[0].at).Hours() / float64(len(samples))
		highest = max(highest, of(x))
	}
	var covariance, variance float64
	for _, x := range samples {
		h := x.at.Sub(samples[0].at).Hours() - hours
		covariance += h * (of(x) - mean)
		variance += h * h
	}
	return covariance / variance, mean, highest
}
