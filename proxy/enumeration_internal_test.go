package proxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// guesser fails to log in, again and again, without a network in between.
type guesser struct {
	server *Server
	users  [2]string // one that exists and one that does not, of the same length
}

type noIntegrations struct{}

func (noIntegrations) Integration(string) (i Integration, ok bool) { return i, ok }

// noTrail takes everything and keeps nothing.
type noTrail struct{ Trail }

func (noTrail) Append(audit.Record) error { return nil }

func newGuesser(t testing.TB) *guesser {
	t.Helper()
	certFile, keyFile := pgtest.CA(t).Issue(t, "localhost")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	set, err := policy.Parse([]policy.Source{{File: "policy.yaml", Data: []byte(`
users:
  - {name: alice, scram: "SCRAM-SHA-256$4096:UhxnrAa/ioXEWmIn6fwdjg==$+lBYFwQHO1H5Yk/b9qA7F43NZS3jYixoCt2oZ1e41+c=:kn1i1/J5dTBNnY+xqkj14YA080MiG0qJfbyLEJ9ccj8="}
`)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(Config{
		Certificate: cert, Policy: policy.NewLive(set), Integrations: noIntegrations{}, Trail: noTrail{}, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	// The waits are the same for everybody; see TestGuessing. Here they would only take time.
	server.guesses.Free, server.strangers.Free = math.MaxInt, math.MaxInt
	return &guesser{server: server, users: [2]string{"alice", "mallo"}}
}

// attempt is one failed log-in: what the server said, with what is random by design blanked, and how long it took.
func (g *guesser) attempt(t testing.TB, user string) (transcript []byte, took time.Duration) {
	t.Helper()
	client, conn := net.Pipe()
	defer client.Close()
	s := newSession(g.server, conn)
	s.startup.user = user
	done := make(chan error, 1)
	started := time.Now()
	go func() { done <- s.authenticate() }()

	var said []byte
	read := func() []byte {
		var header [5]byte
		if _, err := io.ReadFull(client, header[:]); err != nil {
			t.Error(err)
			return nil
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(client, body); err != nil {
			t.Error(err)
		}
		said = append(append(said, header[:]...), body...)
		return body
	}
	send := func(data []byte) {
		message := binary.BigEndian.AppendUint32([]byte{'p'}, uint32(len(data)+4))
		if _, err := client.Write(append(message, data...)); err != nil {
			t.Error(err)
		}
	}
	read()
	first := "n,,n=,r=clientnonce"
	send(append(binary.BigEndian.AppendUint32([]byte(scramSHA256+"\x00"), uint32(len(first))), first...))
	challenge := read()[4:]
	nonce, rest, _ := bytes.Cut(challenge, []byte(",s="))
	salt, _, _ := bytes.Cut(rest, []byte(",i="))
	proof := "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	send(fmt.Appendf(nil, "c=biws,%s,p=%s", nonce, proof))
	err := <-done
	took = time.Since(started)
	said = append(said, fmt.Sprint(err)...)
	said = bytes.ReplaceAll(said, nonce[len("r=clientnonce"):], bytes.Repeat([]byte{'N'}, len(nonce)-len("r=clientnonce")))
	said = bytes.ReplaceAll(said, salt, bytes.Repeat([]byte{'S'}, len(salt)))
	return bytes.ReplaceAll(said, []byte(user), []byte("USER")), took
}

// A name that exists and one that does not get the same bytes, but for what is random by design.
func TestEnumeration(t *testing.T) {
	t.Parallel()
	g := newGuesser(t)
	want, _ := g.attempt(t, g.users[0])
	for i := range 200 {
		if got, _ := g.attempt(t, g.users[i%2]); !bytes.Equal(got, want) {
			t.Fatalf("attempt %d as %s:\n got %q\nwant %q", i, g.users[i%2], got, want)
		}
	}
}

// BenchmarkEnumeration compares transcripts and times of existing and unknown users, in turn. Cohen's d below 0.2 counts
// as a negligible effect; a thousandth of it is lost in the noise of any network.
func BenchmarkEnumeration(b *testing.B) {
	g := newGuesser(b)
	want, _ := g.attempt(b, g.users[0])
	var times [2][]float64
	for i := 0; b.Loop(); i++ {
		got, took := g.attempt(b, g.users[i%2])
		if !bytes.Equal(got, want) {
			b.Fatalf("transcripts differ:\n%q\n%q", got, want)
		}
		times[i%2] = append(times[i%2], took.Seconds()*1e6)
	}
	mean := [2]float64{} // of all but the slowest hundredth, which is the scheduler's
	var variance float64
	for i, ts := range times {
		if len(ts) < 2 {
			return
		}
		slices.Sort(ts)
		ts = ts[:len(ts)-len(ts)/100]
		for _, t := range ts {
			mean[i] += t / float64(len(ts))
		}
		for _, t := range ts {
			variance += (t - mean[i]) * (t - mean[i]) / float64(len(ts)-1) / 2
		}
	}
	b.ReportMetric(median(times[0]), "µs/existing")
	b.ReportMetric(median(times[1]), "µs/unknown")
	b.ReportMetric((mean[0]-mean[1])/math.Sqrt(variance), "Cohens-d")
}

func median(sorted []float64) float64 { return sorted[len(sorted)/2] }

// Every reason that a refusal in the closed table gives is among those whose counters begin at zero.
func TestReasonsAreCounted(t *testing.T) {
	t.Parallel()
	counted := slices.Concat(refusalReasons, endReasons)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?:reason:|\.reason =|r\.code, r\.reason = [A-Za-z]+,) *"([a-z_]+)"`).FindAllSubmatch(text, -1) {
			n++
			if reason := string(match[1]); !slices.Contains(counted, reason) && reason != "too_many_unauthenticated" {
				t.Errorf("%s: the counters of %q do not begin at zero", file, reason)
			}
		}
	}
	if n < 20 {
		t.Errorf("found %d reasons only", n)
	}
}

// A certificate's common name counts only if it has no alternative name at all.
func TestCertificateNames(t *testing.T) {
	t.Parallel()
	san := []pkix.Extension{{Id: subjectAltName}}
	for _, rule := range []struct {
		name string
		cert x509.Certificate
		want bool
	}{
		{"common name alone", x509.Certificate{Subject: pkix.Name{CommonName: "alice"}}, true},
		{"DNS name", x509.Certificate{DNSNames: []string{"bob", "alice"}, Extensions: san}, true},
		{"e-mail address", x509.Certificate{EmailAddresses: []string{"alice"}, Extensions: san}, true},
		{"URI", x509.Certificate{URIs: []*url.URL{{Path: "alice"}}, Extensions: san}, true},
		{"common name beside a DNS name", x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, DNSNames: []string{"bob"}, Extensions: san}, false},
		{"common name beside an address", x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, IPAddresses: []net.IP{{127, 0, 0, 1}}, Extensions: san}, false},
		{"common name beside a name of another kind", x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, Extensions: san}, false},
		{"nothing", x509.Certificate{}, false},
	} {
		if got := certificateNames(&rule.cert, "alice"); got != rule.want {
			t.Errorf("%s: %v, want %v", rule.name, got, rule.want)
		}
	}
}
