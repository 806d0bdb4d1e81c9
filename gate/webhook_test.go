package gate_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// What becomes of a request is told in its order, each at least once, also when the receiver is down and the gate is killed meanwhile;
// a receiver that hangs keeps nothing from others.
func TestWebhooksOutliveTheGate(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var heard, other []string
	down := true
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var message struct {
			Type string
			Data struct{ Request int }
		}
		_ = json.Unmarshal(body, &message)
		if r.URL.Path == "/hangs" {
			<-r.Context().Done()
			return
		}
		mu.Lock()
		defer mu.Unlock()
		said := fmt.Sprintf("%s %d", message.Type, message.Data.Request)
		if r.URL.Path == "/other" {
			other = append(other, said)
			return
		}
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		heard = append(heard, said)
	}))
	t.Cleanup(receiver.Close)
	t.Cleanup(receiver.CloseClientConnections)
	g := gatetest.New(t, pgtest.Start(t, 17).Database(t))
	g.Write(t, "hook", "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 32)))
	notifications := ""
	for _, name := range []string{"hangs", "hook", "other"} {
		notifications += fmt.Sprintf("{name: %s, type: webhook, url: %q, secret_file: hook, allow_private: true}, ", name, receiver.URL+"/"+name)
	}
	config := g.Configure(t, gatetest.Options{Grants: accessFlow, Config: map[string]string{
		"state": "{file: state.db}", "role_linger": "0s", "notifications": "[" + notifications + "]",
	}})
	process := gatetest.StartProcess(t, g, config)
	all := func(of *[]string, want ...string) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return slices.Equal(*of, want) }
	}

	ask(t, g, gatetest.Alice, "state", "REQUEST READ_ONLY ON orders REASON 'INC-1'")
	eventually.True(t, "the other hears it", all(&other, "request_filed 1"))
	if got := ask(t, g, gatetest.Bob, "state", "APPROVE 1"); got != "active" {
		t.Fatal(got)
	}
	eventually.True(t, "the other hears it", all(&other, "request_filed 1", "request_approved 1"))
	// Both are in the state now: what is killed between a message and its mark is sent again a minute later.
	g.AwaitMetric(t, `hourgate_notifications_total{channel="other",result="sent"} 2`)
	eventually.True(t, "an attempt has failed", func() bool {
		_, body := g.Get(t, "/metrics")
		const failed = `hourgate_notifications_total{channel="hook",result="failed"}`
		return strings.Contains(body, failed) && !strings.Contains(body, failed+" 0\n")
	})
	_ = process.Process.Kill()
	_ = process.Wait()
	mu.Lock()
	down = false
	mu.Unlock()
	gatetest.StartProcess(t, g, config)
	if got := ask(t, g, gatetest.Alice, "state", "END 1"); got != "ended (ended by owner)" {
		t.Fatal(got)
	}
	// On a busy machine there were more attempts before, and the next is later.
	eventually.Within(t, 2*time.Minute, "all of it arrives, in order", all(&heard, "request_filed 1", "request_approved 1", "request_ended 1"))
	eventually.True(t, "the other hears it", all(&other, "request_filed 1", "request_approved 1", "request_ended 1"))
}
