package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/access"
)

// The example of the specification's own tests.
func TestSignature(t *testing.T) {
	secret, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []string{"", "whsec_", "whsec_c2hvcnQ=", "secret", "whsec_!!!", "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65))} {
		if _, err := ParseSecret(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func message(body string) access.Message {
	return access.Message{ID: "msg_1", Channel: "hook", Created: time.Now(), Body: []byte(body)}
}

const filed = `{"type": "request_filed", "data": {"request": 17, "user": "bob <@all>", "access": "READ_WRITE", "integration": "orders", "databases": ["orders"],
	"for": "2h0m0s", "reason": "INC-1 <https://evil|click> \u0026 more", "deciders": ["carol"], "command": "APPROVE 17;"}}`

// TestWebhook: a receiver can check who it is from, and a redirect leads nowhere.
func TestWebhook(t *testing.T) {
	secret, err := ParseSecret("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\nwhsec_" + base64.StdEncoding.EncodeToString(make([]byte, 24)))
	if err != nil {
		t.Fatal(err)
	}
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mac := hmac.New(sha256.New, make([]byte, 32))
		mac.Write([]byte(r.Header.Get("webhook-id") + "." + r.Header.Get("webhook-timestamp") + "." + string(body)))
		signatures := strings.Fields(r.Header.Get("webhook-signature"))
		if len(signatures) != 2 || signatures[0] != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) || string(body) != filed {
			t.Errorf("got headers %v and body %s", r.Header, body)
		}
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(status)
	}))
	defer server.Close()
	hook := &Webhook{URL: server.URL, Secret: secret, Client: NewClient(true)}
	for _, tt := range []struct {
		status int
		fails  bool
		final  bool
	}{{200, false, false}, {204, false, false}, {302, true, false}, {500, true, false}, {410, true, true}} {
		status = tt.status
		err := hook.Send(t.Context(), message(filed))
		if (err != nil) != tt.fails || errors.Is(err, ErrRefused) != tt.final {
			t.Errorf("status %d: %v", tt.status, err)
		}
		if err != nil && strings.Contains(err.Error(), server.URL) {
			t.Errorf("the error shows the address: %v", err)
		}
	}
	private := &Webhook{URL: server.URL, Secret: secret, Client: NewClient(false)}
	if err := private.Send(t.Context(), message(filed)); !errors.Is(err, errPrivate) {
		t.Errorf("a private address: %v", err)
	}
}

// TestWords: what people wrote is text wherever it is shown, and every event has words.
func TestWords(t *testing.T) {
	body, err := slackBody(message(filed))
	if err != nil {
		t.Fatal(err)
	}
	var sent map[string]any
	if err := json.Unmarshal(body, &sent); err != nil || strings.Contains(sent["text"].(string), "<") || !strings.Contains(sent["text"].(string), "bob &lt;@all&gt; asks for READ_WRITE on orders/orders") {
		t.Errorf("got %s, %v", body, err)
	}
	mail := &Mail{From: "a@example.com", To: []string{"b@example.com"}}
	text, err := mail.compose(message(strings.Replace(filed, "INC-1", `x\r\n.\r\nBcc: c@example.com`, 1)))
	if err != nil || strings.Contains(string(text), "Bcc") || strings.Count(string(text), "\r\n\r\n") != 1 {
		t.Errorf("got %s, %v", text, err)
	}
	for _, event := range []string{
		"request_filed", "request_seconded", "request_approved", "request_denied", "request_withdrawn", "request_lapsed", "request_extended",
		"request_shortened", "request_ended", "request_reviewed", "extension_filed", "extension_denied", "extension_lapsed", "lock_set", "lock_lifted",
	} {
		e, err := parseEvent(message(`{"type": "` + event + `", "data": {"request": 17}}`))
		if err != nil || e.subject() == event {
			t.Errorf("%s has no words", event)
		}
	}
}

// outbox is one in memory.
type outbox struct {
	mu      sync.Mutex
	waiting []access.Message
	done    []string
	delayed map[string]time.Duration
}

func (o *outbox) Claim(context.Context, int, time.Duration) ([]access.Message, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	claimed := o.waiting
	o.waiting = nil
	return claimed, nil
}

func (o *outbox) Delay(_ context.Context, id string, by time.Duration) error {
	o.delayed[id] = by
	return nil
}

func (o *outbox) Done(_ context.Context, id string) error {
	o.done = append(o.done, id)
	return nil
}

type channelFunc func() error

func (f channelFunc) Send(context.Context, access.Message) error { return f() }

// TestSender: what is not taken is sent again, until it is too old or refused for good.
func TestSender(t *testing.T) {
	at := func(id, channel string, age time.Duration, attempts int) access.Message {
		return access.Message{ID: id, Channel: channel, Created: time.Now().Add(-age), Attempts: attempts, Body: []byte("{}")}
	}
	box := &outbox{delayed: map[string]time.Duration{}, waiting: []access.Message{
		at("sent", "good", 0, 1), at("fresh", "bad", 0, 1), at("later", "bad", time.Hour, 9), at("old", "bad", 4*24*time.Hour, 90),
		at("refused", "closed", 0, 1), at("orphan", "nowhere", 0, 1),
	}}
	s := &Sender{
		Outbox: box, Log: slog.New(slog.DiscardHandler), Results: NewResults(prometheus.NewRegistry()),
		Channels: map[string]Channel{
			"good":   channelFunc(func() error { return nil }),
			"bad":    channelFunc(func() error { return errors.New("down") }),
			"closed": channelFunc(func() error { return ErrRefused }),
		},
	}
	if !s.sendSome(t.Context()) || s.sendSome(t.Context()) {
		t.Error("there was something once")
	}
	if got := strings.Join(box.done, " "); got != "sent old refused orphan" {
		t.Errorf("done: %s", got)
	}
	if d := box.delayed["fresh"]; d < 3*time.Second || d > 8*time.Second {
		t.Errorf("the first retry comes after %v", d)
	}
	if d := box.delayed["later"]; d < 10*time.Minute || d > longestRetry+longestRetry/4 {
		t.Errorf("the ninth retry comes after %v", d)
	}
}
