//go:build moto

package gate_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/mototest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// livePsql is a psql that a person has open.
type livePsql struct {
	t      *testing.T
	in     io.WriteCloser
	out    *gatetest.Buffer
	ended  chan struct{}
	asked  int
	server string
}

func openPsql(t *testing.T, g *gatetest.Gate, database string) *livePsql {
	t.Helper()
	p := &livePsql{t: t, out: &gatetest.Buffer{}, ended: make(chan struct{})}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), pgtest.Client(t, "psql"), "-qAtX", "-d", database)
	cmd.Env = append(os.Environ(), g.Environment()...)
	cmd.Stdout, cmd.Stderr = p.out, p.out
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.in = in
	go func() { _ = cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Kill(); <-p.ended })
	return p
}

// says asks for an answer that only a live session gives.
func (p *livePsql) says(what string) (port string) {
	p.t.Helper()
	p.asked++
	mark := fmt.Sprintf("answer-%d:", p.asked)
	_, _ = fmt.Fprintf(p.in, "SELECT '%s' || inet_server_port() FROM (SELECT count(*) FROM orders) o;\n", mark)
	eventually.True(p.t, what, func() bool {
		_, rest, ok := strings.Cut(p.out.String(), mark)
		if ok {
			port, _, ok = strings.Cut(rest, "\n")
		}
		select {
		case <-p.ended:
			p.t.Fatalf("%s: psql has ended:\n%s", what, p.out)
		default:
		}
		return ok
	})
	return port
}

// ends waits until psql has lost its session and says why.
func (p *livePsql) ends(what, why string) {
	p.t.Helper()
	eventually.True(p.t, what, func() bool {
		_, _ = fmt.Fprintln(p.in, "SELECT 1;")
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	if !strings.Contains(p.out.String(), why) {
		p.t.Errorf("%s: got %s, want %q", what, p.out, why)
	}
}

// People sit in psql while servers of two accounts and regions are made, retagged, fail over, are renamed and deleted, and AWS
// throttles a quarter of what it is asked.
func TestMotoUnderLiveSessions(t *testing.T) {
	m := mototest.Start(t)
	db, standby := pgtest.Start(t, 17).Database(t), pgtest.Start(t, 16).Database(t)
	accounts, region, other := []string{"222222222222", "333333333333"}, "eu-west-1", "eu-central-1"
	document := func(d *pgtest.Database) string {
		return fmt.Sprintf(`{"username": %q, "password": %q}`, d.Admin, d.AdminPassword)
	}
	shop, far := m.Account(t, accounts[0], region), m.Account(t, accounts[1], other)
	shop.Secret(t, "prod/hourgate", document(db))
	shop.Secret(t, "prod/after", document(standby))
	far.Secret(t, "prod/hourgate", document(db))
	tags := func(env string) (pairs []string) {
		return []string{"hourgate", "true", "hourgate-secret", "prod/hourgate", "env", env}
	}
	shop.Instance(t, "stock", "postgres", mototest.Tags(tags("prod")...))
	far.Instance(t, "stock", "postgres", mototest.Tags(tags("prod")...))

	var entries strings.Builder
	for _, account := range accounts {
		fmt.Fprintf(&entries, `
  - aws_rds:
      regions: [%s, %s]
      assume_role: arn:aws:iam::%s:role/hourgate-discovery
      tags: {hourgate: "true"}
      labels: {env: "{tag:env}"}
      defaults: {database: %s, ssl_mode: verify-ca, ssl_root_cert: %s}
      interval: 1s
      dial: {"*": "127.0.0.1:%d", "moved.*": "127.0.0.1:%d"}
`, region, other, account, db.Name, db.Server.CAFile, db.Server.Port, standby.Server.Port)
	}
	// What comes after the failover has a database of the same name.
	if _, err := standby.Server.Superuser(t, "postgres").Exec(t.Context(), "ALTER DATABASE "+standby.Name+" RENAME TO "+db.Name); err != nil {
		t.Fatal(err)
	}
	g := gatetest.Start(t, db, gatetest.Options{
		Grants: gatetest.Grant("by-label", "integration", "", "labels", "{env: prod}") + "trusted_tags: [env]\n",
		Config: map[string]string{"discovery": entries.String()},
	})
	open := func(database string) *livePsql {
		t.Helper()
		_ = awaitLogin(t, g, database).Close(t.Context())
		return openPsql(t, g, database)
	}
	// Two servers of one name, in two accounts: the older one has it, the other is called so in full.
	full := "stock-" + accounts[1] + "-" + other
	first, second := open("stock"), open(full)
	before := first.says("the first account's server")
	second.says("the second account's server")

	m.Disturb.Store(true) // from here on: which of two servers of one name is called so in full depends on who answers first
	t.Log("add")
	shop.Instance(t, "billing", "postgres", mototest.Tags(tags("prod")...))
	billing := open("billing")
	billing.says("the new server")

	t.Log("retag")
	retag := func(value string) {
		t.Helper()
		if _, err := shop.RDS.AddTagsToResource(t.Context(), &rds.AddTagsToResourceInput{
			ResourceName: aws.String("arn:aws:rds:" + region + ":" + accounts[0] + ":db:billing"), Tags: mototest.Tags("env", value),
		}); err != nil {
			t.Fatal(err)
		}
	}
	retag("dev")
	billing.ends("the session on a server that is not of production any more", "your grant was withdrawn or changed")
	awaitRefusal(t, g, "billing", "no live grant")
	first.says("the neighbour")
	retag("prod")
	billing = open("billing")

	t.Log("an account's region is down")
	answers := func(up int) { // after all of the SDK's repetitions
		t.Helper()
		series := fmt.Sprintf(`hourgate_discovery_up{account=%q,kind="instances",region=%q,source="aws_rds"} %d`, accounts[1], other, up)
		eventually.Within(t, 2*time.Minute, series, func() bool { _, metrics := g.Get(t, "/metrics"); return strings.Contains(metrics, series) })
	}
	m.Failing.Store(&other)
	answers(0)
	second.says("a session in the region that does not answer")
	_ = awaitLogin(t, g, full).Close(t.Context())
	m.Failing.Store(nil)
	answers(1)

	t.Log("fail over: another endpoint, behind which is another server with its own secret")
	m.Rewrite.Store(strings.NewReplacer("stock.aaaaaaaaaa."+region, "moved.aaaaaaaaaa."+region))
	if _, err := shop.RDS.AddTagsToResource(t.Context(), &rds.AddTagsToResourceInput{
		ResourceName: aws.String("arn:aws:rds:" + region + ":" + accounts[0] + ":db:stock"), Tags: mototest.Tags("hourgate-secret", "prod/after"),
	}); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "new sessions are on the new server", func() bool {
		conn, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "stock")
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close(t.Context()) }()
		var port int
		return conn.QueryRow(t.Context(), "SELECT inet_server_port()").Scan(&port) == nil && port == standby.Server.Port
	})
	if after := first.says("a session from before the failover"); after != before {
		t.Errorf("a session moved from port %s to %s", before, after)
	}
	fresh := open("stock")
	if port := fresh.says("a session after the failover"); port != fmt.Sprint(standby.Server.Port) {
		t.Errorf("a new session is at port %s", port)
	}

	t.Log("rename")
	if _, err := shop.RDS.ModifyDBInstance(t.Context(), &rds.ModifyDBInstanceInput{
		DBInstanceIdentifier: aws.String("billing"), NewDBInstanceIdentifier: aws.String("bills"), ApplyImmediately: aws.Bool(true),
	}); err != nil {
		t.Fatal(err)
	}
	bills := open("bills")
	bills.says("under the new name")
	billing.says("a session from before the rename")
	awaitRefusal(t, g, "billing", `"billing" is not served`)

	t.Log("delete")
	for a, id := range map[*mototest.Account]string{shop: "stock", far: "stock"} {
		if _, err := a.RDS.DeleteDBInstance(t.Context(), &rds.DeleteDBInstanceInput{DBInstanceIdentifier: aws.String(id), SkipFinalSnapshot: aws.Bool(true)}); err != nil {
			t.Fatal(err)
		}
	}
	awaitRefusal(t, g, full, "not served")
	for what, p := range map[string]*livePsql{"before the failover": first, "after it": fresh, "in the other account": second} {
		p.says("a session on a deleted server, " + what)
	}

	t.Log("the end")
	g.SetGrants(t, "")
	for what, p := range map[string]*livePsql{"before the failover": first, "after it": fresh, "in the other account": second, "renamed": bills, "from before the rename": billing} {
		p.ends("the end of a session "+what, "your grant was withdrawn or changed")
	}
	eventually.True(t, "no role is left", func() bool { return len(g.Roles(t)) == 0 })
	t.Logf("%d requests to AWS, %d of them disturbed", m.Requests.Load(), m.Thrown.Load())
}
