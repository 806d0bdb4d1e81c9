package gate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

const (
	revoked = "terminating connection: your grant was withdrawn or changed"
	// seenSoon is within what a change of a policy must be seen, plus what a busy machine takes.
	seenSoon = 5 * time.Second
)

// users are alice and bob as a policy file has them.
func users(t *testing.T, g *gatetest.Gate) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.Folder, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(text), "grants:")
	return before
}

func bobs(name string) string { return gatetest.Grant(name, "users", "["+gatetest.Bob+"]") }

func connectAs(t *testing.T, g *gatetest.Gate, user, password string) *pgx.Conn {
	t.Helper()
	conn, err := g.TryConnect(t, user, password, "orders")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// wantRevoked waits until a session is put out because its grant is gone.
func wantRevoked(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	since := time.Now()
	_, err := conn.Exec(t.Context(), "SELECT pg_sleep(20)")
	wantFatal(t, err, pgerrcode.AdminShutdown, revoked)
	if took := time.Since(since); took > seenSoon {
		t.Errorf("access ended only %v after the change", took)
	}
}

// A revocation is never part of what a bad reload loses, and a bad reload gives nothing.
func TestBadReloadStillRevokes(t *testing.T) {
	t.Parallel()
	g := gatetest.New(t, pgtest.Start(t, 18).Database(t))
	file := g.Configure(t, gatetest.Options{})
	people := users(t, g)
	if err := os.Mkdir(filepath.Join(g.Folder, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	g.Write(t, "policy.yaml", people)
	g.Write(t, "d/alice.yaml", "grants:\n"+gatetest.Grant("alices"))
	g.Write(t, "d/bob.yaml", "grants:\n"+bobs("bobs"))
	g.Run(t, g.Reconfigure(t, file, "policy: [policy.yaml]", "policy: [policy.yaml, d]"))
	alices, bobs := g.Connect(t, "orders"), connectAs(t, g, gatetest.Bob, gatetest.BobPassword)

	// Both are broken, and nothing can be told from either.
	g.Write(t, "d/alice.yaml", "grants: [\n")
	g.AwaitMetric(t, "hourgate_policy_last_reload_successful 0")
	execute(t, alices, "SELECT 1")

	// Bob's file is sound and empties his grant; alice's is broken still.
	g.Write(t, "d/bob.yaml", "grants: []\n")
	wantRevoked(t, bobs)
	execute(t, alices, "SELECT 1")
	if _, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "orders"); !strings.Contains(fmt.Sprint(err), pgerrcode.InvalidAuthorizationSpecification) {
		t.Errorf("bob after his grant is gone: %v", err)
	}
	rejected := g.Records(t, audit.PolicyRejected)
	if last := rejected[len(rejected)-1]; !slices.Equal(last.TakenAway, []string{"grant bobs"}) || last.PolicyHash == "" {
		t.Errorf("the record of the rejection does not say what it took away: %+v", last)
	}

	// What a bad reload adds is not in force.
	g.Write(t, "d/bob.yaml", "grants:\n"+gatetest.Grant("bobs-again", "users", "["+gatetest.Bob+"]"))
	eventually.True(t, "it was read", func() bool { return len(g.Records(t, audit.PolicyRejected)) > len(rejected) })
	if _, err := g.TryConnect(t, gatetest.Bob, gatetest.BobPassword, "orders"); !strings.Contains(fmt.Sprint(err), pgerrcode.InvalidAuthorizationSpecification) {
		t.Errorf("a bad reload gave bob access: %v", err)
	}

	// The user goes; grants that name her are no reason to keep her in.
	g.Write(t, "d/alice.yaml", "grants:\n"+gatetest.Grant("alices"))
	eventually.True(t, "the policy is mended", func() bool {
		_, body := g.Get(t, "/metrics")
		return strings.Contains(body, "\nhourgate_policy_last_reload_successful 1\n")
	})
	alices = g.Connect(t, "orders")
	g.Write(t, "policy.yaml", strings.Replace(people, "name: "+gatetest.Alice+",", "name: "+gatetest.Alice+", disabled: true,", 1))
	wantRevoked(t, alices)
	if _, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders"); !strings.Contains(fmt.Sprint(err), pgerrcode.InvalidPassword) {
		t.Errorf("a disabled user: %v", err)
	}
}

// A file that is empty for a moment, or that lost all its users, puts nobody out. users: [] does.
func TestEmptyPolicyIsAMistake(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 17).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1")})
	conn := g.Connect(t, "orders")
	for i, content := range []string{"", "# soon\n", "{}\n", "grants: []\n"} {
		g.Write(t, "policy.yaml", content)
		eventually.True(t, "it is rejected", func() bool { return len(g.Records(t, audit.PolicyRejected)) == i+1 })
		execute(t, conn, "SELECT 1")
	}
	g.Write(t, "policy.yaml", "users: []\n")
	wantRevoked(t, conn)
}

// A policy folder behind links is swapped as a whole, as Kubernetes does it, and a folder is removed and made again: each
// is seen at once.
func TestPolicyFolderIsSwapped(t *testing.T) {
	t.Parallel()
	g := gatetest.New(t, pgtest.Start(t, 16).Database(t))
	file := g.Configure(t, gatetest.Options{})
	people := users(t, g)
	at := func(name string) string { return filepath.Join(g.Folder, name) }
	do := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	put := func(folder, grants string) {
		t.Helper()
		do(os.Mkdir(at(folder), 0o700))
		g.Write(t, folder+"/p.yaml", people+"grants:\n"+grants)
	}
	point := func(name, target string) {
		t.Helper()
		do(os.Symlink(target, at(name+".new")), os.Rename(at(name+".new"), at(name)))
	}
	put("one", gatetest.Grant("alices")+bobs("bobs"))
	put("two", bobs("bobs"))
	put("three", gatetest.Grant("alices")+bobs("bobs"))
	point("..data", "one")
	point("mount", "..data")
	g.Run(t, g.Reconfigure(t, file, "policy: [policy.yaml]", "policy: [mount]"))

	conn := g.Connect(t, "orders")
	point("..data", "two")
	wantRevoked(t, conn)

	point("mount", "three")
	eventually.True(t, "alice's grant is back", func() bool {
		c, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "orders")
		conn = c
		return err == nil
	})
	do(os.RemoveAll(at("three")))
	g.AwaitMetric(t, "hourgate_policy_last_reload_successful 0")
	execute(t, conn, "SELECT 1")
	put("three", bobs("bobs"))
	wantRevoked(t, conn)
}

// A file that is written all the time is read all the same.
func TestFileThatIsNeverStill(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 15).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1") + bobs("inc-2")})
	conn := g.Connect(t, "orders")
	stop, stopped := make(chan struct{}), make(chan struct{})
	people := users(t, g)
	go func() {
		defer close(stopped)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = os.WriteFile(filepath.Join(g.Folder, "new.tmp"), fmt.Appendf(nil, "# %d\n%sgrants:\n%s", i, people, bobs("inc-2")), 0o600)
				_ = os.Rename(filepath.Join(g.Folder, "new.tmp"), filepath.Join(g.Folder, "policy.yaml"))
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	wantRevoked(t, conn)
}

// What the trail has of a reload: what the files are, whose, and what they change.
func TestPolicyLoadedSaysWhatChanged(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 14).Database(t), gatetest.Options{Grants: gatetest.Grant("stays") + gatetest.Grant("goes") + gatetest.Grant("moves") + gatetest.Grant("changes")})
	g.SetGrants(t, gatetest.Grant("stays", "until", time.Now().Add(3*time.Hour).UTC().Format(time.RFC3339))+
		gatetest.Grant("moves", "until", time.Now().Add(2*time.Hour).UTC().Format(time.RFC3339))+
		gatetest.Grant("changes", "access", "ADMIN")+gatetest.Grant("comes"))
	eventually.True(t, "the policy is loaded", func() bool { return len(g.Records(t, audit.PolicyLoaded)) == 1 })
	r := g.Records(t, audit.PolicyLoaded)[0]
	if !slices.Equal(r.GrantsAdded, []string{"comes"}) || !slices.Equal(r.GrantsRemoved, []string{"goes"}) ||
		!slices.Equal(r.GrantsMoved, []string{"moves", "stays"}) || !slices.Equal(r.GrantsChanged, []string{"changes"}) || r.UsersAdded != nil {
		t.Errorf("got %+v", r.Policy)
	}
	if len(r.PolicyHash) != 64 || len(r.PolicyFiles) != 1 || !strings.Contains(r.PolicyFiles[0], "policy.yaml, owner ") {
		t.Errorf("got hash %q and files %q", r.PolicyHash, r.PolicyFiles)
	}
}

// Integrations come, change and go with the configuration, and touch nobody else's sessions. What was removed keeps its
// sessions until their grants end.
func TestConfigurationIsReloaded(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 18)
	db, other := server.Database(t), server.Database(t)
	g := gatetest.New(t, db)
	file := g.Configure(t, gatetest.Options{
		Grants: gatetest.Grant("inc-1") + gatetest.Grant("inc-2", "integration", "more"), Config: map[string]string{"role_linger": "0s"},
	})
	g.Run(t, file)
	conn := g.Connect(t, "orders")
	if _, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "more"); !strings.Contains(fmt.Sprint(err), pgerrcode.InvalidAuthorizationSpecification) {
		t.Errorf("an integration that is not there: %v", err)
	}
	if !strings.Contains(g.Logs.String(), "unknown integration") {
		t.Error("the log does not warn of the integration that the policy names")
	}

	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before := string(config)
	g.Write(t, "more.json", fmt.Sprintf(`{"username": %q, "password": %q}`, other.Admin, other.AdminPassword))
	added := strings.Replace(before, "integrations:\n", fmt.Sprintf("integrations:\n  - {name: more, hostname: localhost, port: %d, database: %s, ssl_root_cert: %s, secret: {file: more.json}}\n",
		server.Port, other.Name, server.CAFile), 1)
	g.Write(t, "config.yaml", added)
	var more *pgx.Conn
	eventually.True(t, "the integration is there", func() bool {
		c, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "more")
		more = c
		return err == nil
	})
	execute(t, conn, "SELECT 1")
	g.AwaitMetric(t, `hourgate_sessions{integration="more"} 1`)

	g.Write(t, "config.yaml", strings.Replace(added, "    hostname: localhost\n", "    hostname: 127.0.0.1\n", 1)+"listen_nowhere: x\n")
	g.AwaitMetric(t, "hourgate_config_last_reload_successful 0")
	g.Write(t, "config.yaml", strings.Replace(added, "    hostname: localhost\n", "    hostname: 127.0.0.1\n", 1))
	g.AwaitMetric(t, "hourgate_config_last_reload_successful 1")
	eventually.True(t, "the integration is changed", func() bool { return strings.Contains(g.Logs.String(), "127.0.0.1:"+fmt.Sprint(server.Port)) })
	execute(t, conn, "SELECT 1")
	execute(t, more, "SELECT 1")
	execute(t, g.Connect(t, "orders"), "SELECT 1")

	g.Write(t, "config.yaml", before+"ops_listen: 127.0.0.1:1\n")
	g.AwaitMetric(t, "hourgate_config_last_reload_successful 0") // a key twice
	g.Write(t, "config.yaml", strings.Replace(before, "deployment: ", "deployment: other-", 1))
	eventually.True(t, "the log says what needs a restart", func() bool {
		return strings.Contains(g.Logs.String(), "settings have changed that need a restart") && strings.Contains(g.Logs.String(), "[deployment]")
	})
	execute(t, more, "SELECT 1") // removed, and its session goes on
	if _, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "more"); err == nil {
		t.Error("an integration that was removed takes sessions")
	}
	_ = more.Close(t.Context())
	eventually.True(t, "its metrics are gone", func() bool {
		_, body := g.Get(t, "/metrics")
		return !strings.Contains(body, `integration="more"`)
	})
	eventually.True(t, "its role is gone", func() bool {
		return !slices.ContainsFunc(g.Roles(t), func(r string) bool { return strings.Contains(r, "inc_2") })
	})
	execute(t, conn, "SELECT 1")

	g.Write(t, "config.yaml", added) // and it comes back
	eventually.True(t, "the integration is back", func() bool {
		_, err := g.TryConnect(t, gatetest.Alice, gatetest.AlicePassword, "more")
		return err == nil
	})
}

// Pipes in place of files hold nobody up: a grant that is withdrawn meanwhile ends.
func TestPipesInPlaceOfFiles(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 16).Database(t), gatetest.Options{Grants: gatetest.Grant("work")})
	session := g.Connect(t, "orders")
	configs, err := filepath.Glob(filepath.Join(g.Folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	replaced := 0
	for _, file := range append(configs, filepath.Join(g.Folder, "trail.jsonl.locks")) {
		switch name := filepath.Base(file); {
		case name == "policy.yaml" || strings.HasPrefix(name, "trail.jsonl") && name != "trail.jsonl.locks":
			continue
		}
		_ = os.Remove(file)
		if err := syscall.Mkfifo(file, 0o600); err != nil {
			t.Fatal(err)
		}
		replaced++
	}
	if replaced < 3 {
		t.Fatalf("only %d files were replaced: %v", replaced, configs)
	}
	eventually.True(t, "the configuration can't be read", func() bool { return strings.Contains(g.Logs.String(), "not a regular file") })
	g.SetGrants(t, bobs("others"))
	wantRevoked(t, session)
}
