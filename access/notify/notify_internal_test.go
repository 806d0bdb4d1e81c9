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
	netmail "net/mail"
	"net/netip"
	"slices"
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

func (o *outbox) Claim(_ context.Context, channel string, _ int, _ time.Duration) (claimed []access.Message, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = slices.DeleteFunc(o.waiting, func(m access.Message) bool {
		if m.Channel == channel {
			claimed = append(claimed, m)
		}
		return m.Channel == channel
	})
	return claimed, nil
}

func (o *outbox) Prune(_ context.Context, before time.Time) (old []access.Message, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range o.waiting {
		if m.Created.Before(before) {
			old = append(old, m)
		}
	}
	return old, nil
}

func (o *outbox) Delay(_ context.Context, id string, by time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
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
	for _, channel := range []string{"good", "bad", "closed"} {
		if !s.sendSome(t.Context(), channel) || s.sendSome(t.Context(), channel) {
			t.Errorf("there was something for %s once", channel)
		}
	}
	if got := strings.Join(box.done, " "); got != "sent old refused" {
		t.Errorf("done: %s", got)
	}
	if d := box.delayed["fresh"]; d < 3*time.Second || d > 8*time.Second {
		t.Errorf("the first retry comes after %v", d)
	}
	if d := box.delayed["later"]; d < 10*time.Minute || d > longestRetry+longestRetry/4 {
		t.Errorf("the ninth retry comes after %v", d)
	}
}

// TestChannelsByThemselves: a channel that hangs does not hold up another.
func TestChannelsByThemselves(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	box := &outbox{delayed: map[string]time.Duration{}}
	for i := range 10 {
		box.waiting = append(box.waiting, access.Message{ID: strings.Repeat("h", i+1), Channel: "hangs", Created: time.Now()})
	}
	box.waiting = append(box.waiting, access.Message{ID: "good", Channel: "good", Created: time.Now()})
	hanging, sent := make(chan struct{}, 10), make(chan struct{})
	s := &Sender{
		Outbox: box, Log: slog.New(slog.DiscardHandler), Results: NewResults(prometheus.NewRegistry()),
		Channels: map[string]Channel{
			"hangs": channelFunc(func() error { hanging <- struct{}{}; <-ctx.Done(); return ctx.Err() }),
			"good":  channelFunc(func() error { <-hanging; close(sent); return nil }),
		},
	}
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	<-sent
	cancel()
	<-done
}

// TestPublic: no address of the inside of a network, however it is written, is one that a webhook may go to.
func TestPublic(t *testing.T) {
	for _, private := range []string{
		"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "0.1.2.3", "192.0.0.192", "198.18.0.1",
		"255.255.255.255", "240.0.0.1", "224.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:169.254.169.254", "::ffff:10.0.0.1",
		"::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:a9fe:a9fe::1", "2001::1", "2001:db8::1", "fec0::1",
	} {
		if public(netip.MustParseAddr(private)) {
			t.Errorf("%s passes", private)
		}
	}
	for _, ip := range []string{"1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"} {
		if !public(netip.MustParseAddr(ip)) {
			t.Errorf("%s does not", ip)
		}
	}
}

// TestLongWords: nothing that people write makes a message that Slack or a mail server would not take.
func TestLongWords(t *testing.T) {
	for _, reason := range []string{strings.Repeat("&", 1000), strings.Repeat("é<", 300), strings.Repeat("x", 1000)} {
		body, err := json.Marshal(map[string]any{"type": "request_filed", "data": access.Notice{
			Request: 17, User: "bob", Access: "tables: " + strings.Repeat("<orders>, ", 100), Integration: "orders", Reason: reason, Said: reason,
			Command: "APPROVE 17; or DENY 17 REASON '…'; in database hourgate", Deciders: slices.Repeat([]string{"carol@example.com"}, 100),
		}})
		if err != nil {
			t.Fatal(err)
		}
		m := message(string(body))
		sent, err := slackBody(m)
		if err != nil {
			t.Fatal(err)
		}
		var slack struct {
			Blocks []struct{ Text struct{ Text string } }
		}
		if err := json.Unmarshal(sent, &slack); err != nil {
			t.Fatal(err)
		}
		text := slack.Blocks[0].Text.Text
		if n := len([]rune(text)); n > 3000 || !strings.Contains(text, "Type: APPROVE 17;") || strings.ContainsAny(text, "<>") {
			t.Errorf("%d characters for Slack:\n%s", n, text)
		}
		for rest := text; strings.Contains(rest, "&"); { // each is whole
			_, rest, _ = strings.Cut(rest, "&")
			if name, _, found := strings.Cut(rest, ";"); !found || !slices.Contains([]string{"amp", "lt", "gt"}, name) {
				t.Fatalf("cut within a character:\n%s", text)
			}
		}
		to := slices.Repeat([]string{"somebody.with.a.long.name@subsidiary.example.com"}, 50)
		mail, err := (&Mail{From: "a@example.com", To: to}).compose(m)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(mail)) {
			if len(line) > 998 {
				t.Errorf("a line of %d bytes in a mail: %.80s", len(line), line)
			}
		}
		parsed, err := netmail.ReadMessage(strings.NewReader(string(mail)))
		if err != nil {
			t.Fatal(err)
		}
		if list, err := parsed.Header.AddressList("To"); err != nil || len(list) != len(to) {
			t.Errorf("%d addresses, %v", len(list), err)
		}
	}
}
