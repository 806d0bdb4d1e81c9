package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hourgate/hourgate/access"
)

// A Secret signs webhooks. It shows itself nowhere.
type Secret struct{ keys [][]byte }

// ParseSecret reads one or more secrets as Standard Webhooks writes them, separated by white space: whsec_ and base64 of 24
// to 64 bytes. With several, each message is signed with all, while receivers change from one to the other.
func ParseSecret(text string) (Secret, error) {
	var s Secret
	for word := range strings.FieldsSeq(text) {
		encoded, ok := strings.CutPrefix(word, "whsec_")
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) < 24 || len(key) > 64 {
			return Secret{}, errors.New("want whsec_ and 24 to 64 bytes in base64, such as: echo whsec_$(openssl rand -base64 32)")
		}
		s.keys = append(s.keys, key)
	}
	if len(s.keys) == 0 {
		return Secret{}, errors.New("no secret")
	}
	return s, nil
}

func (Secret) String() string { return "[redacted]" }

// GoString keeps %#v from showing it.
func (Secret) GoString() string { return "[redacted]" }

// sign is the header webhook-signature; https://github.com/standard-webhooks/standard-webhooks.
func (s Secret) sign(id string, at time.Time, body []byte) string {
	var signatures []string
	for _, key := range s.keys {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, " ")
}

// Webhook posts messages as they are, signed as Standard Webhooks has it.
type Webhook struct {
	URL    string
	Secret Secret
	Client *http.Client // see NewClient
}

// Send implements Channel.
func (w *Webhook) Send(ctx context.Context, m access.Message) error {
	now := time.Now()
	return post(ctx, w.Client, w.URL, m.Body, map[string]string{
		"webhook-id": m.ID, "webhook-timestamp": strconv.FormatInt(now.Unix(), 10), "webhook-signature": w.Secret.sign(m.ID, now, m.Body),
	})
}

// Slack posts to an incoming webhook of Slack's.
type Slack struct {
	URL    string
	Client *http.Client
}

// Send implements Channel.
func (s *Slack) Send(ctx context.Context, m access.Message) error {
	body, err := slackBody(m)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return post(ctx, s.Client, s.URL, body, nil)
}

// maxAnswer is what is read of an answer, so that its connection can be used again.
const maxAnswer = 64 << 10

func post(ctx context.Context, client *http.Client, address string, body []byte, headers map[string]string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return withoutURL(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "hourgate")
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	answer, err := client.Do(r)
	if err != nil {
		return withoutURL(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // what it says does not matter
	switch code := answer.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusGone:
		return fmt.Errorf("%w: HTTP status 410", ErrRefused)
	default:
		return fmt.Errorf("HTTP status %d", code)
	}
}

// withoutURL keeps the address, which is a secret with Slack, out of an error.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// errPrivate is an address that only the inside of a network reaches.
var errPrivate = errors.New("the name leads to a private address; allow_private lets it")

// special are addresses that look public and are not: IANA's registries of special-purpose addresses, as far as netip does not know
// them. Some lead to others within, such as those of NAT64 and 6to4; clouds have services at shared addresses (100.64.0.0/10).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0:0/96"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("5f00::/16"), netip.MustParsePrefix("fec0::/10"),
}

// public reports whether an address is anybody's on the Internet.
func public(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// NewClient returns a client that follows no redirects, since these could lead anywhere, and goes to no private address
// unless that is allowed: whoever may name a webhook could make the gate knock at doors within otherwise.
func NewClient(allowPrivate bool) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !allowPrivate && !public(at.Addr()) {
			return errPrivate
		}
		return nil
	}}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: sendTimeout,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
