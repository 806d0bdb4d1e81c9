package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

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
