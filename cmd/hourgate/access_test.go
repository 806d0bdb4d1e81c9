package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// TestAccessCommands goes through a request's life with the command line alone.
func TestAccessCommands(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	g := gatetest.Start(t, pgtest.Start(t, 17).Database(t), gatetest.Options{
		Grants: `  []
access_flows:
  - name: support
    requestors: {groups: [support]}
    targets: [{integrations: [orders], access: [READ_ONLY, READ_WRITE]}]
    max_duration: 8h
    approval: {any_of: [{users: [` + gatetest.Bob + `]}]}
    extensions: {max: 2}
`, Config: map[string]string{"state": "{file: state.db}", "admin_socket": socket},
	})
	_, port, _ := net.SplitHostPort(g.Addr)
	as := func(user string) string {
		password := gatetest.AlicePassword
		if user == gatetest.Bob {
			password = gatetest.BobPassword
		}
		return fmt.Sprintf("--dsn=host=localhost port=%s user=%s password='%s' sslmode=verify-full sslrootcert=%s", port, user, password, g.CA)
	}
	const operator = "operator"
	for _, tt := range []struct {
		who   string
		args  string // separated by bars
		code  int
		wants string // separated by bars
	}{
		{gatetest.Alice, "access", exitOK, "can ask|READ_WRITE|REQUEST READ_WRITE ON "},
		{gatetest.Alice, "request|orders|--access|READ_WRITE|--for|90 minutes|--reason|it's; \"odd\"", exitOK, "id|1|pending|1 hour 30 minutes|it's; \"odd\""},
		{gatetest.Alice, "approve|1", exitRefused, "nobody decides their own request"},
		{gatetest.Bob, "requests", exitOK, "1|pending|APPROVE 1; or DENY 1"},
		{gatetest.Bob, "approve|1|--for|1h|--as|READ_ONLY", exitOK, "active|READ_ONLY|1 hour"},
		{operator, "grants|list", exitOK, "request-1|live|alice@example.com|orders/|READ_ONLY"},
		{gatetest.Bob, "grants|list", exitRefused, "only operators see all grants"},
		{gatetest.Alice, "extend|1|--for|1h", exitOK, "waits for bob@example.com"},
		{gatetest.Bob, "deny|1|--reason|no", exitOK, "active"},
		{gatetest.Alice, "end|1", exitOK, "ended (ended by owner)"},
		{gatetest.Alice, "request|orders|--wait|1s", exitRefused, "request 2 is pending"},
		{gatetest.Alice, "request|nowhere", exitRefused, "no access flow lets you ask for READ_ONLY on nowhere|SHOW ACCESS lists"},
		{gatetest.Alice, "sessions", exitOK, "hourgate"},
		{gatetest.Alice, "lock|all|--reason|x", exitRefused, "only operators may do this"},
		{operator, "lock|user|alice@example.com|--reason|laptop stolen", exitOK, "user alice@example.com is locked, on all gates"},
		{gatetest.Alice, "access", exitRefused, "user alice@example.com is locked|laptop stolen"},
		{operator, "unlock|user|alice@example.com", exitOK, "is not locked any more"},
		{operator, "end|2|--reason|tidy", exitOK, "denied"},
		{operator, "kill|0000", exitRefused, "there is no such session"},
		{operator, "lock|table|orders", exitUsage, "want user, grant or integration and a name, or all"},
		{operator, "lock|all|orders", exitUsage, "want one name after all, and none after all"},
	} {
		args := strings.Split(tt.args, "|")
		if tt.who == operator {
			args = append(args, "--socket="+socket)
		} else {
			args = append(args, as(tt.who))
		}
		var out bytes.Buffer
		code := run(t.Context(), args, nil, &out, &out)
		if code != tt.code {
			t.Errorf("%s: %s: exit code %d, want %d", tt.who, tt.args, code, tt.code)
		}
		for want := range strings.SplitSeq(tt.wants, "|") {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %s: lacks %q:\n%s", tt.who, tt.args, want, &out)
			}
		}
	}
	var out bytes.Buffer
	var rows []map[string]any
	if code := run(t.Context(), []string{"requests", "--json", as(gatetest.Alice)}, nil, &out, &out); code != exitOK || json.Unmarshal(out.Bytes(), &rows) != nil || len(rows) != 2 || rows[1]["id"] != 1.0 {
		t.Errorf("JSON: exit code %d\n%s", code, &out)
	}
}

// TestWatch: access --watch shows what changes, goes on when the gate is started again, and ends when its person is locked out.
func TestWatch(t *testing.T) {
	t.Parallel()
	g := gatetest.New(t, pgtest.Start(t, 17).Database(t))
	socket := filepath.Join(t.TempDir(), "admin.sock")
	config := g.Configure(t, gatetest.Options{Grants: `  []
access_flows:
  - {name: support, requestors: {groups: [support]}, targets: [{integrations: [orders], access: [READ_ONLY]}], max_duration: 8h, approval: none}
`, Config: map[string]string{"state": "{file: state.db}", "admin_socket": socket}})
	process := gatetest.StartProcess(t, g, config)
	dsn := func() string {
		_, port, _ := net.SplitHostPort(g.Addr)
		return fmt.Sprintf("--dsn=host=localhost port=%s user=%s password='%s' sslmode=verify-full sslrootcert=%s", port, gatetest.Alice, gatetest.AlicePassword, g.CA)
	}
	say := func(args ...string) {
		t.Helper()
		var out bytes.Buffer
		if code := run(t.Context(), args, nil, &out, &out); code != exitOK {
			t.Errorf("%v: exit code %d\n%s", args, code, &out)
		}
	}
	var shown gatetest.Buffer
	ended := make(chan int, 1)
	go func() { ended <- run(t.Context(), []string{"access", "--watch", dsn()}, nil, &shown, &shown) }()
	shows := func(want string) {
		t.Helper()
		eventually.True(t, "it shows "+want, func() bool { return strings.Contains(shown.String(), want) })
	}
	shows("can ask")
	say("request", "orders", dsn())
	shows("request-1")

	port := g.Addr
	_ = process.Process.Kill()
	_ = process.Wait()
	content, err := os.ReadFile(config)
	if err == nil {
		err = os.WriteFile(config, []byte(strings.Replace(string(content), "listen: 127.0.0.1:0", "listen: "+port, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	gatetest.StartProcess(t, g, config)
	say("request", "orders", dsn())
	shows("request-2")
	say("lock", "user", gatetest.Alice, "--reason", "stolen", "--socket="+socket)
	if code := <-ended; code != exitRefused || !strings.Contains(shown.String(), "user "+gatetest.Alice+" is locked") {
		t.Errorf("exit code %d after\n%s", code, shown.String())
	}
}
