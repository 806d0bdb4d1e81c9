package gate_test

import (
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// address leads to one server or another, as a name in DNS does. Connections that are there stay.
type address struct {
	listener net.Listener
	leads    atomic.Pointer[string] // to host:port; to "" hangs up
}

func newAddress(t *testing.T, to string) *address {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &address{listener: listener}
	a.leads.Store(&to)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go a.forward(client)
		}
	}()
	return a
}

func (a *address) forward(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", *a.leads.Load())
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	done := make(chan struct{})
	go func() { _, _ = io.Copy(server, client); _ = server.Close(); close(done) }()
	_, _ = io.Copy(client, server)
	_ = client.Close()
	<-done
}

func (a *address) lead(to string) { a.leads.Store(&to) }

func at(s *pgtest.Server) string { return fmt.Sprintf("127.0.0.1:%d", s.Port) }

// behind runs a gate that discovers "shop", whose endpoint is an address of ours, which leads to the server of db.
func behind(t *testing.T, db *pgtest.Database, policy string) (*gatetest.Gate, *address, *awstest.Server, *awstest.Instance) {
	t.Helper()
	s := awstest.New(t)
	s.Change(func() {
		s.Secrets["prod/hourgate"] = fmt.Sprintf(`{"username": %q, "password": %q}`, db.Admin, db.AdminPassword)
	})
	shop := s.Add(ireland, awstest.Instance{ID: "shop", Tags: foundTags()})
	a := newAddress(t, at(db.Server))
	g := gatetest.Start(t, db, gatetest.Options{
		Grants: policy,
		Config: map[string]string{"role_linger": "0s", "discovery": fmt.Sprintf(`
  - aws_rds:
      regions: [eu-west-1]
      tags: {hourgate: "true"}
      defaults: {database: %s, ssl_mode: verify-ca, ssl_root_cert: %s}
      interval: 1s
      dial: {"*": "%s"}
`, db.Name, db.Server.CAFile, a.listener.Addr())},
	})
	return g, a, s, shop
}

const (
	shopFirst = "shop-first" // names of grants
	shopAgain = "shop-again"
)

// Another server answers at an instance's address. Nobody is let in there, nothing is made there, it learns no password, and the
// grants of those who are in end on the server where they are.
func TestEndpointThatLies(t *testing.T) {
	db := pgtest.Start(t, 17).Database(t)
	g, a, _, _ := behind(t, db, gatetest.Grant(shopFirst, "integration", "shop"))
	stranger := pgtest.Start(t, 16).Database(t)
	forger := pgtest.CA(t).IssueCustom(t, func(*x509.Certificate) {})
	forged := pgtest.StartScripted(t, pgtest.Script{SSL: pgtest.SSLYes, Certificate: forger, TLS: pgtest.LoginSCRAM, Plain: pgtest.LoginCleartext, Password: db.AdminPassword})
	plain := pgtest.StartScripted(t, pgtest.Script{SSL: pgtest.SSLNo, Plain: pgtest.LoginCleartext})
	replica := db.Server.Replica(t)
	grant := shopFirst
	for _, lie := range []struct{ what, leads, refusal string }{
		{"a server that the admin's password is not good for", at(stranger.Server), "shop"},
		{"a certificate of somebody else's authority", fmt.Sprintf("127.0.0.1:%d", forged.Port), "shop"},
		{"no TLS, and it asks for passwords as they are", fmt.Sprintf("127.0.0.1:%d", plain.Port), "shop"},
		{"a standby of the instance", at(replica), "standby"},
	} {
		a.lead(at(db.Server))
		inside := awaitLogin(t, g, "shop")
		works(t, inside, "before the lie: "+lie.what)
		a.lead(lie.leads)
		for range 3 {
			_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "shop")
			if err == nil {
				t.Fatalf("%s: let in", lie.what)
			}
			if !strings.Contains(err.Error(), lie.refusal) || strings.Contains(err.Error(), gatetest.AlicePassword) {
				t.Errorf("%s: refused with %v, want %q", lie.what, err, lie.refusal)
			}
		}
		works(t, inside, "while its address leads elsewhere: "+lie.what)
		grant = map[string]string{shopFirst: shopAgain, shopAgain: shopFirst}[grant]
		g.SetGrants(t, gatetest.Grant(grant, "integration", "shop"))
		eventually.True(t, "the session ends: "+lie.what, func() bool { return inside.Ping(t.Context()) != nil })
		eventually.True(t, "no role is left: "+lie.what, func() bool { return len(g.Roles(t)) == 0 })
	}
	if n := rolesOn(t, g, stranger.Server.Superuser(t, "postgres")); n != 0 {
		t.Errorf("%d roles were made on a stranger", n)
	}
	for what, s := range map[string]*pgtest.Scripted{"a forged certificate": forged, "no TLS": plain} {
		if trace := s.Trace(); strings.Contains(trace, "in") || len(s.Passwords()) > 0 || strings.Contains(trace, "proof") {
			t.Errorf("%s: it got %q", what, trace)
		}
	}
	a.lead(at(db.Server))
	works(t, awaitLogin(t, g, "shop"), "in the end")
}

// An instance flaps: its address answers or not, AWS says that it is there, stopped, or says nothing of it, several times a second.
// Who is in stays in, nothing piles up, the end of a grant holds in the midst of it, and it works when it has come to rest.
func TestInstanceThatFlaps(t *testing.T) {
	db := pgtest.Start(t, 15).Database(t)
	g, a, s, shop := behind(t, db, gatetest.Grant(shopFirst, "integration", "shop")+gatetest.Grant("bobs", "integration", "shop", "users", "["+gatetest.Bob+"]"))
	inside := awaitLogin(t, g, "shop")
	stop, flapping := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flapping)
		ticker := time.NewTicker(150 * time.Millisecond)
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
			a.lead([]string{"127.0.0.1:1", at(db.Server)}[n%2])
			s.Change(func() {
				shop.Status = []string{"available", "stopped", "rebooting", "failing-over"}[n/2%4]
				s.Instances[ireland] = slices.DeleteFunc(s.Instances[ireland], func(i *awstest.Instance) bool { return i == shop })
				if n/4%3 != 0 {
					s.Instances[ireland] = append(s.Instances[ireland], shop)
				}
			})
		}
	}()
	tried, in := 0, 0
	for began := time.Now(); time.Since(began) < 5*time.Second; tried++ {
		if conn, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "shop"); err == nil {
			works(t, conn, "a session that was let in meanwhile")
			_ = conn.Close(t.Context())
			in++
		}
		works(t, inside, "the session that was there")
	}
	t.Logf("%d tries, %d let in", tried, in)
	until := time.Now().Add(time.Second)
	g.SetGrants(t, gatetest.Grant(shopFirst, "integration", "shop", "until", until.UTC().Format(time.RFC3339Nano)))
	eventually.True(t, "the session ends", func() bool { return reads(t, inside) != nil })
	if late := time.Since(until); late > time.Second {
		t.Errorf("the session ended %v after its grant", late)
	}
	close(stop)
	<-flapping
	a.lead(at(db.Server))
	s.Change(func() { shop.Status, s.Instances[ireland] = "available", []*awstest.Instance{shop} })
	eventually.Within(t, time.Minute, "no role is left", func() bool { return len(g.Roles(t)) == 0 })
	var admins int
	if err := db.Superuser(t).QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", db.Admin).Scan(&admins); err != nil || admins > 8 {
		t.Errorf("%d connections of the admin are left (%v)", admins, err)
	}
	g.SetGrants(t, gatetest.Grant(shopAgain, "integration", "shop"))
	eventually.Within(t, time.Minute, "it works when it has come to rest", func() bool {
		conn, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "shop")
		return err == nil && reads(t, conn) == nil
	})
}
