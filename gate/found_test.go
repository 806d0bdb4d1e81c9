package gate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

var ireland = awstest.Where{Account: awstest.OwnAccount, Region: "eu-west-1"}

// foundTags are those of a server whose labels say that it is of production.
func foundTags(more ...string) map[string]string {
	tags := map[string]string{"hourgate": "true", "hourgate-secret": "prod/hourgate", "env": "prod"}
	for k := 0; k+1 < len(more); k += 2 {
		tags[more[k]] = more[k+1]
	}
	return tags
}

// discovering runs a gate with discovery on the stand-in, whose servers are all the test's database.
func discovering(t *testing.T, db *pgtest.Database, s *awstest.Server, policy string) *gatetest.Gate {
	t.Helper()
	s.Change(func() {
		s.Secrets["prod/hourgate"] = fmt.Sprintf(`{"username": %q, "password": %q}`, db.Admin, db.AdminPassword)
	})
	return gatetest.Start(t, db, gatetest.Options{
		Grants: gatetest.Grant("by-label", "integration", "", "labels", "{env: prod}") + policy,
		Config: map[string]string{"discovery": fmt.Sprintf(`
  - aws_rds:
      regions: [eu-west-1]
      tags: {hourgate: "true"}
      labels: {env: "{tag:env}", team: "{tag:team}"}
      defaults: {database: %s, ssl_mode: verify-ca, ssl_root_cert: %s}
      interval: 1s
      dial: {"*": "127.0.0.1:%d"}
`, db.Name, db.Server.CAFile, db.Server.Port)},
	})
}

// awaitLogin waits until Alice is let in.
func awaitLogin(t *testing.T, g *gatetest.Gate, database string) *pgx.Conn {
	t.Helper()
	var conn *pgx.Conn
	eventually.True(t, "log-in to "+database, func() (ok bool) {
		var err error
		conn, err = g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, database)
		return err == nil
	})
	return conn
}

// awaitRefusal waits until Alice is refused with a text.
func awaitRefusal(t *testing.T, g *gatetest.Gate, database, text string) {
	t.Helper()
	var last error
	defer func() {
		if t.Failed() {
			t.Logf("the last refusal of %s: %v", database, last)
		}
	}()
	eventually.True(t, fmt.Sprintf("refusal of %s with %q", database, text), func() bool {
		conn, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, database)
		if err == nil {
			_ = conn.Close(t.Context())
			return false
		}
		last = err
		return strings.Contains(err.Error(), text)
	})
}

func works(t *testing.T, conn *pgx.Conn, what string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "SELECT count(*) FROM orders"); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// Servers appear, are retagged, renamed and deleted under live sessions; what happens to one is none of the others' business.
func TestServersComeAndGo(t *testing.T) {
	db := pgtest.Start(t, 18).Database(t)
	s := awstest.New(t)
	shop := s.Add(ireland, awstest.Instance{ID: "shop", Tags: foundTags()})
	billing := s.Add(ireland, awstest.Instance{ID: "billing", Tags: foundTags("env", "dev")})
	g := discovering(t, db, s, "trusted_tags: [env]\n")
	inShop := awaitLogin(t, g, "shop")
	awaitRefusal(t, g, "billing", "no live grant")

	s.Change(func() { billing.Tags = foundTags() })
	inBilling := awaitLogin(t, g, "billing")
	s.Change(func() { billing.Tags = foundTags("env", "dev") })
	eventually.True(t, "the session under the old label ends", func() bool {
		_, err := inBilling.Exec(t.Context(), "SELECT 1")
		return err != nil
	})
	awaitRefusal(t, g, "billing", "no live grant")
	works(t, inShop, "a session on another server after a label changed")

	// A rename is a rename: who is in stays in.
	s.Change(func() { shop.ID, shop.Host = "store", "store.abc.eu-west-1.rds.amazonaws.com" })
	inStore := awaitLogin(t, g, "store")
	works(t, inShop, "a session that began before the rename")
	awaitRefusal(t, g, "shop", `"shop" is not served`)

	// Deleted: nobody comes in, who is in stays in, and then nothing is left.
	s.Change(func() {
		s.Instances[ireland] = slices.DeleteFunc(s.Instances[ireland], func(i *awstest.Instance) bool { return i == shop })
	})
	awaitRefusal(t, g, "store", "not served")
	works(t, inStore, "a session on a server that is gone from AWS")
	for _, conn := range []*pgx.Conn{inShop, inStore} {
		_ = conn.Close(t.Context())
	}
	eventually.True(t, "no role is left", func() bool { return len(g.Roles(t)) == 0 })
}

// A grant that names a server opens no server of another region that asks for the name, when the next gate starts while the first
// one's region does not answer.
func TestNameMeansOneServer(t *testing.T) {
	db := pgtest.Start(t, 16).Database(t)
	s := awstest.New(t)
	s.Change(func() {
		s.Secrets["prod/hourgate"] = fmt.Sprintf(`{"username": %q, "password": %q}`, db.Admin, db.AdminPassword)
	})
	s.Add(ireland, awstest.Instance{ID: "shop", Tags: foundTags()})
	s.Add(awstest.Where{Account: awstest.OwnAccount, Region: "eu-central-1"}, awstest.Instance{ID: "shop", Created: time.Now(), Tags: foundTags()})
	g := gatetest.New(t, db)
	config := g.Configure(t, gatetest.Options{
		Grants: gatetest.Grant("by-name", "integration", "shop"),
		Config: map[string]string{"discovery": fmt.Sprintf(`
  - aws_rds:
      regions: [eu-west-1, eu-central-1]
      tags: {hourgate: "true"}
      defaults: {database: %s, ssl_mode: verify-ca, ssl_root_cert: %s}
      interval: 1s
      dial: {"*": "127.0.0.1:%d"}
`, db.Name, db.Server.CAFile, db.Server.Port)},
	})
	t.Run("a gate", func(t *testing.T) {
		g.Run(t, config)
		works(t, awaitLogin(t, g, "shop"), "the server that the grant names")
	})
	s.Change(func() {
		s.Fault = func(w awstest.Where, action string) (int, string, string) {
			if w == ireland && action != "GetSecretValue" {
				return 403, "AccessDenied", "not now"
			}
			return 0, "", ""
		}
	})
	g.Run(t, config)
	eventually.True(t, "the server of the other region is found, under its full name", func() bool {
		return slices.ContainsFunc(g.Gate.Fleet().States(), func(s gate.State) bool { return s.Name == "shop-"+awstest.OwnAccount+"-eu-central-1" })
	})
	awaitRefusal(t, g, "shop", "no live grant")
	s.Change(func() { s.Fault = nil })
	works(t, awaitLogin(t, g, "shop"), "once its region answers again")
}

// A tag that the policy does not trust opens nothing, whatever it says.
func TestTagsOpenNothingByThemselves(t *testing.T) {
	db := pgtest.Start(t, 17).Database(t)
	s := awstest.New(t)
	s.Add(ireland, awstest.Instance{ID: "shop", Tags: foundTags()})
	g := discovering(t, db, s, gatetest.Grant("by-name", "integration", "store"))
	eventually.True(t, "the server is found", func() bool { return len(g.Gate.Fleet().States()) == 2 })
	awaitRefusal(t, g, "shop", "no live grant")
}

// Servers that can't be used say why to whoever may use them.
func TestServersThatAreNotReady(t *testing.T) {
	db := pgtest.Start(t, 16).Database(t)
	s := awstest.New(t)
	s.Change(func() {
		s.Secrets["prod/owner"] = fmt.Sprintf(`{"username": %q, "password": %q}`, db.Owner, db.OwnerPassword)
	})
	stopped := s.Add(ireland, awstest.Instance{ID: "stopped", Status: "stopped", Tags: foundTags()})
	s.Add(ireland, awstest.Instance{ID: "secretless", Tags: foundTags("hourgate-secret", "")})
	s.Add(ireland, awstest.Instance{ID: "powerless", Tags: foundTags("hourgate-secret", "prod/owner")})
	s.Add(ireland, awstest.Instance{ID: "locked-out", Tags: foundTags("hourgate-secret", "none")})
	g := discovering(t, db, s, "trusted_tags: [env]\n")
	awaitRefusal(t, g, "stopped", `"stopped" is not ready: the instance is stopped`)
	awaitRefusal(t, g, "secretless", `"secretless" is not ready: it has no secret: no tag hourgate-secret`)
	awaitRefusal(t, g, "powerless", `"powerless" is not ready: its admin can't do the work`)
	awaitRefusal(t, g, "locked-out", `"locked-out" is not ready: the gate can't log in to its server as the admin`)
	for _, state := range g.Gate.Fleet().States() {
		if state.Name == "powerless" && (len(state.SQL) == 0 || state.NotReady == "") {
			t.Errorf("what a DBA has to do is not said: %+v", state)
		}
	}
	s.Change(func() { stopped.Status = "available" })
	works(t, awaitLogin(t, g, "stopped"), "after the start")
	s.Change(func() { stopped.Status = "stopping" })
	awaitRefusal(t, g, "stopped", "the instance is stopping")
}

// While AWS answers nobody, all goes on as it was.
func TestDiscoveryFails(t *testing.T) {
	db := pgtest.Start(t, 15).Database(t)
	s := awstest.New(t)
	s.Add(ireland, awstest.Instance{ID: "shop", Tags: foundTags()})
	g := discovering(t, db, s, "trusted_tags: [env]\n")
	conn := awaitLogin(t, g, "shop")
	s.Change(func() {
		s.Fault = func(_ awstest.Where, action string) (int, string, string) {
			if action == "GetSecretValue" {
				return 0, "", ""
			}
			return 403, "AccessDenied", "not now"
		}
	})
	g.AwaitMetric(t, `hourgate_discovery_up{account="",kind="instances",region="eu-west-1",source="aws_rds"} 0`)
	works(t, conn, "the session that was there")
	works(t, awaitLogin(t, g, "shop"), "a new session")

	// A label counts although the policy's files are broken just now.
	g.Write(t, "policy.yaml", "grants: [")
	g.AwaitMetric(t, "hourgate_policy_last_reload_successful 0")
	s.Change(func() { s.Fault = nil; s.Instances[ireland][0].Tags = foundTags("env", "dev") })
	eventually.True(t, "the session ends", func() bool {
		_, err := conn.Exec(t.Context(), "SELECT 1")
		return err != nil
	})
}
