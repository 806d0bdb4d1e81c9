//go:build clients

package clients

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// Webhooks are signed so that the library of Standard Webhooks' authors verifies them, with the secret that is in use and with the one
// that comes after it. What a receiver did not take comes again under its first name, before what came after it.
func TestWebhook(t *testing.T) {
	for name, secrets := range map[string][2]string{
		"one secret": {"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		"rotating":   {"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_" + strings.Repeat("QUJD", 12), "whsec_" + strings.Repeat("QUJD", 12)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, lines := startReceiver(t, secrets[1])
			g := startGateUnder(t, build(t, ".", "../cmd/hourgate"), pgtest.Start(t, 17).Database(t), func(g *gate) {
				g.mayAsk(t)
				file := g.write(t, "hook.secret", secrets[0]+"\n")
				g.extra = fmt.Sprintf("state: {file: state.db}\nnotifications:\n  - {name: hook, type: webhook, url: \"http://127.0.0.1:%s/hook\", secret_file: %q, allow_private: true}", port, file)
			})
			conn, err := pgx.Connect(t.Context(), strings.Replace(g.url(alice), "dbname=orders", "dbname=hourgate", 1))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			exec1(t, conn, "REQUEST READ_ONLY ON orders REASON 'Grüße, \"INC\"-1 <&>'")
			exec1(t, conn, "END 1")
			var ids, said []string
			for range 3 {
				id, what, _ := strings.Cut(<-lines, " ")
				ids, said = append(ids, id), append(said, what)
			}
			if want := []string{"request_filed 1 true", "request_filed 1 true", "request_withdrawn 1 true"}; !slices.Equal(said, want) {
				t.Errorf("the receiver says %q, want %q", said, want)
			}
			if ids[0] != ids[1] || ids[1] == ids[2] {
				t.Errorf("the messages are named %q", ids)
			}
		})
	}
}

// startReceiver runs a receiver of webhooks until the test ends, and returns what it says of each.
func startReceiver(t *testing.T, secret string) (port string, lines <-chan string) {
	t.Helper()
	cmd := exec.Command("node", "node/webhook.mjs")
	cmd.Env = append(os.Environ(), "HOURGATE_WEBHOOK_SECRET="+secret, "HOURGATE_NODE_MODULES="+filepath.Join(cache(), "clients", "node", "node_modules"))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	said := make(chan string, 10)
	go func() {
		defer close(said)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			said <- in.Text()
		}
	}()
	port, started := <-said
	if !started {
		t.Fatal("the receiver did not start")
	}
	return port, said
}
