package upstream

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// A verification holds for the same certificates under the same anchors, for a minute, and never past the end of a
// certificate.
func TestTrustedChain(t *testing.T) {
	t.Parallel()
	authority := pgtest.CA(t)
	read := func() *anchors {
		t.Helper()
		data, err := os.ReadFile(authority.CertFile)
		if err != nil {
			t.Fatal(err)
		}
		a, err := parseAnchors(data)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	trusted, replaced := read(), read()
	now := time.Now()
	shown := func(until time.Time) []*x509.Certificate {
		t.Helper()
		cert, err := x509.ParseCertificate(authority.IssueCustom(t, func(c *x509.Certificate) { c.NotAfter = until }).Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{cert}
	}
	long, short := shown(now.Add(time.Hour)), shown(now.Add(10*time.Second))
	verify := func(certs []*x509.Certificate) *trustedChain {
		t.Helper()
		chain, err := verifyChain(trusted, certs, now)
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	for name, rule := range map[string]struct {
		chain   *trustedChain
		anchors *anchors
		shown   []*x509.Certificate
		after   time.Duration
		want    bool
	}{
		"nothing verified yet":     {nil, trusted, long, 0, false},
		"the same":                 {verify(long), trusted, long, 59 * time.Second, true},
		"too long ago":             {verify(long), trusted, long, time.Minute, false},
		"the clock was set back":   {verify(long), trusted, long, -time.Second, false},
		"about to expire":          {verify(short), trusted, short, 8 * time.Second, true},
		"expired":                  {verify(short), trusted, short, 10 * time.Second, false},
		"another certificate":      {verify(long), trusted, short, 0, false},
		"an intermediate more":     {verify(long), trusted, append(long[:1:1], short...), 0, false},
		"none":                     {verify(long), trusted, nil, 0, false},
		"the root file is another": {verify(long), replaced, long, 0, false},
	} {
		if got := rule.chain.covers(rule.anchors, rule.shown, now.Add(rule.after)); got != rule.want {
			t.Errorf("%s: got %t, want %t", name, got, rule.want)
		}
	}
	if _, err := verifyChain(trusted, short, now.Add(time.Minute)); err == nil {
		t.Error("an expired certificate is verified")
	}
}

// The message about a certificate for somebody else names whom it is for, whole: that is what people look at.
func TestNamesOfACertificate(t *testing.T) {
	const long = "orders-production-replica-3.cluster-c7tj4example.eu-west-1.rds.amazonaws.com"
	cert := &x509.Certificate{DNSNames: []string{long}, Subject: pkix.Name{CommonName: "nobody"}, IPAddresses: []net.IP{net.IPv4(10, 1, 2, 3)}}
	if got, want := names(cert), `["`+long+`" "10.1.2.3" "CN=nobody"]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for i := range 20 {
		cert.DNSNames = append(cert.DNSNames, fmt.Sprintf("%d.%s", i, long))
	}
	if got := names(cert); !strings.HasSuffix(got, " and 13 more") || !strings.Contains(got, `"8.`+long+`"]`) {
		t.Errorf("got %s", got)
	}
}
