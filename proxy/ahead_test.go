package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
)

// door is the way to a server, and knows how many connections came and how many are there.
type door struct {
	port  uint16
	delay time.Duration // of each connection's first byte

	mu           sync.Mutex
	opened, open int
}

func newDoor(t testing.TB, server *pgtest.Server, delay time.Duration) *door {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{port: uint16(listener.Addr().(*net.TCPAddr).Port), delay: delay}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { d.pass(conn, server.Address()) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); running.Wait() })
	return d
}

func (d *door) pass(client net.Conn, address string) {
	d.count(1, 1)
	defer d.count(0, -1)
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	time.Sleep(d.delay)
	var up sync.WaitGroup
	up.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
	_, _ = io.Copy(client, server)
	_ = client.Close()
	up.Wait()
}

func (d *door) count(opened, open int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened += opened
	d.open += open
}

func (d *door) connections() (opened, open int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened, d.open
}

// expect waits until so many connections have come in all, and so many are there.
func (d *door) expect(t testing.TB, opened, open int) {
	t.Helper()
	eventually.True(t, "connections come and go", func() bool { n, m := d.connections(); return n == opened && m == open })
	if n, m := d.connections(); n != opened || m != open {
		t.Fatalf("%d connections opened and %d open, want %d and %d", n, m, opened, open)
	}
}

func (d *door) upstream(t testing.TB, server *pgtest.Server) *upstream.Server {
	t.Helper()
	s, err := upstream.New(upstream.Config{Host: "localhost", Port: d.port, SSLMode: upstream.VerifyFull, RootCert: server.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// challenged is a client that has got the challenge and does not answer, and what it would answer.
func challenged(t testing.TB, to target) (p *peer, answer []byte) {
	t.Helper()
	p = dial(t, to, negotiated)
	p.send(startup(v30, "user", to.user, "database", to.database))
	p.expect('R')
	conversation := newConversation("", to.password)
	first, err := conversation.Step("")
	if err != nil {
		t.Fatal(err)
	}
	p.send(saslInitial("SCRAM-SHA-256", first))
	final, err := conversation.Step(string(p.expect('R').body[4:]))
	if err != nil {
		t.Fatal(err)
	}
	return p, sasl(final)
}

// While a client authenticates, the connection that it will need is opened, if somebody from its network was let in
// before. It is closed if the client fails or leaves; and who only tries runs out of it.
func TestDialWhileAuthenticating(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	d := newDoor(t, db.Server, 0)
	g := startGate(t, db, gateOptions{upstream: d.upstream(t, db.Server)})
	to := g.target()
	wrong, unknown, elsewhere := to, to, to
	wrong.password, unknown.user = "wrong", "nobody@example.com"
	elsewhere.password, elsewhere.database = "wrong", "nothing"
	fail := func(p *peer, answer []byte) {
		p.send(answer)
		if got := p.outcome(); got != fmt.Sprintf("FATAL 28P01: password authentication failed for user %q", p.target.user) {
			t.Errorf("got %s", got)
		}
	}

	fail(challenged(t, wrong)) // a stranger
	d.expect(t, 0, 0)

	_ = connect(t, to)
	d.expect(t, 1, 1)

	p, _ := challenged(t, to) // who leaves
	d.expect(t, 2, 2)
	_ = p.conn.Close()
	d.expect(t, 2, 1)

	for i, to := range []target{wrong, unknown} {
		p, answer := challenged(t, to)
		d.expect(t, 3+i, 2)
		fail(p, answer)
		d.expect(t, 3+i, 1)
	}

	fail(challenged(t, elsewhere))
	d.expect(t, 4, 1)

	for opened := 5; opened <= 9; opened++ { // the rest of eight
		p, _ := challenged(t, to)
		d.expect(t, opened, 2)
		_ = p.conn.Close()
		d.expect(t, opened, 1)
	}
	p, answer := challenged(t, to)
	d.expect(t, 9, 1)

	p.send(answer) // now it is opened
	if got := p.outcome(); got != "ready" {
		t.Fatalf("got %s", got)
	}
	d.expect(t, 10, 2)
	p, answer = challenged(t, to)
	d.expect(t, 11, 3) // and from now on it is earlier again
	p.send(answer)
	if got := p.outcome(); got != "ready" {
		t.Fatalf("got %s", got)
	}
	d.expect(t, 11, 3)
}

// Whom the policy lets in nowhere gets no use of the connection that was opened for them, and does not restore the
// network's credit.
func TestDialForSomebodyWithoutGrant(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	d := newDoor(t, db.Server, 0)
	g := startGate(t, db, gateOptions{upstream: d.upstream(t, db.Server)})
	to := g.target()
	_ = connect(t, to)
	to.user, to.password = bob, bobPassword
	for i := range 10 {
		opened := min(2+i, 9)
		p, answer := challenged(t, to)
		if opened == 2+i {
			d.expect(t, opened, 2)
		}
		p.send(answer)
		if got := p.outcome(); got != `FATAL 28000: no live grant for "orders"` {
			t.Fatalf("got %s", got)
		}
		d.expect(t, opened, 1)
	}
}

// The name of an integration may be that of a database elsewhere. Only the policy knows which one the user means.
func TestDialElsewhere(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	right, wrong := newDoor(t, db.Server, 0), newDoor(t, db.Server, 0)
	g := startGate(t, db, gateOptions{upstream: right.upstream(t, db.Server), change: func(cfg *proxy.Config) {
		here, _ := cfg.Integrations.Integration("orders")
		there := here
		there.Upstream = wrong.upstream(t, db.Server)
		cfg.Integrations = integrations{"archive": here, "orders": there}
		policyText := "users:\n  - {name: " + alice + ", scram: \"" + verifiers()[alice] + "\"}\n" +
			"grants:\n  - {name: inc-1, users: [" + alice + "], integration: archive, databases: [orders], access: READ_WRITE, until: 2099-01-01T00:00:00Z}\n"
		set, err := policy.Parse([]policy.Source{{File: "policy.yaml", Data: []byte(policyText)}},
			map[string]string{"orders": db.Name, "archive": db.Name})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Policy = policy.NewLive(set)
	}})
	_ = connect(t, g.target())
	right.expect(t, 1, 1)
	wrong.expect(t, 0, 0)
	p := connect(t, g.target())
	right.expect(t, 2, 2)
	// It was opened, unless the log-in was over before that, and is not used.
	eventually.True(t, "the connection elsewhere is closed", func() bool { n, open := wrong.connections(); return n <= 1 && open == 0 })
	p.send(query("SELECT 1"))
	p.expect('T')
}

// The connection is opened while the role is made, and closed if there will be none.
func TestDialWhileProvisioning(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	d := newDoor(t, db.Server, 0)
	g := startGate(t, db, gateOptions{
		upstream: d.upstream(t, db.Server),
		acquire: func(ctx context.Context) (proxy.Lease, error) {
			for ctx.Err() == nil {
				if opened, _ := d.connections(); opened > 0 {
					return nil, errors.New("no role")
				}
				time.Sleep(time.Millisecond)
			}
			return nil, context.Cause(ctx)
		},
		change: func(cfg *proxy.Config) { cfg.LoginTimeout = patience / 2 },
	})
	p := dial(t, g.target(), negotiated)
	p.send(startup(v30, "user", alice, "database", "orders"))
	if got := p.outcome(); got != `FATAL 58000: access to "orders" could not be prepared` {
		t.Errorf("got %s", got)
	}
	d.expect(t, 1, 0)
}

// A grant that ends while the connection is being opened, by a server that does not answer, ends that too.
func TestGrantEndsWhileDialling(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	d := newDoor(t, db.Server, patience/2)
	g := startGate(t, db, gateOptions{upstream: d.upstream(t, db.Server)})
	p := dial(t, g.target(), negotiated)
	p.send(startup(v30, "user", alice, "database", "orders"))
	done := make(chan string)
	go func() { done <- p.outcome() }()
	d.expect(t, 1, 1)
	withdrawnAt := time.Now()
	g.withdraw()
	if got := <-done; got != "FATAL 57P01: terminating connection: your grant was withdrawn or changed" {
		t.Errorf("got %s", got)
	}
	if took := time.Since(withdrawnAt); took > promptly {
		t.Errorf("the end took %v, want at most %v", took, promptly)
	}
}

// The phases are what a client waits for, one after the other: what runs beside another phase is not counted twice.
func TestPhases(t *testing.T) {
	t.Parallel()
	const slow = 2 * time.Second
	db := database(t, 18)
	d := newDoor(t, db.Server, slow)
	login := upstream.Login{User: db.Owner, Password: db.OwnerPassword, Database: db.Name}
	var g *gate
	g = startGate(t, db, gateOptions{
		upstream: d.upstream(t, db.Server),
		acquire:  func(context.Context) (proxy.Lease, error) { time.Sleep(slow); return g.leases.take(login), nil },
	})
	began := time.Now()
	_ = connect(t, g.target())
	waited := time.Since(began)

	phases := phases(t, g.registry)
	var sum time.Duration
	for _, phase := range []string{"negotiate", "authenticate", "provision", "connect"} {
		if phases[phase].count != 1 {
			t.Errorf("phase %s observed %d times, want once", phase, phases[phase].count)
		}
		sum += phases[phase].sum
	}
	if sum > waited {
		t.Errorf("the phases take %v together, the client waited %v", sum, waited)
	}
	if got := phases["provision"].sum; got < slow {
		t.Errorf("provision took %v, want at least %v", got, slow)
	}
	if got := phases["connect"].sum; got >= slow {
		t.Errorf("connect took %v: it includes what ran while the role was made", got)
	}
}

type phase struct {
	count uint64
	sum   time.Duration
}

func phases(t testing.TB, registry *prometheus.Registry) map[string]phase {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]phase)
	for _, family := range families {
		if family.GetName() != "hourgate_connect_duration_seconds" {
			continue
		}
		for _, m := range family.GetMetric() {
			h := m.GetHistogram()
			all[m.GetLabel()[0].GetValue()] = phase{h.GetSampleCount(), time.Duration(h.GetSampleSum() * float64(time.Second))}
		}
	}
	return all
}
