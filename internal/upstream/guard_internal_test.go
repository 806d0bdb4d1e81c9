package upstream

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Whatever a server sends during the log-in, the guard passes on exactly what a reader that sees all of it at once would:
// whole messages, within libpq's limits, no demand for a weak password in plaintext or for endless iterations.
func FuzzGuard(f *testing.F) {
	for _, secured := range []bool{true, false} {
		f.Add([]byte("R\x00\x00\x00\x08\x00\x00\x00\x00S\x00\x00\x00\x05x"), secured)
		f.Add([]byte("R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00R\x00\x00\x00\x19\x00\x00\x00\x0br=a,s=b,i=1000001"), secured)
		f.Add([]byte("R\x00\x00\x00\x15\x00\x00\x00\x0br=a,s=b,i=4096"), secured)
		f.Add([]byte("R\x00\x00\x00\x08\x00\x00\x00\x03"), secured)
		f.Add([]byte("R\x00\x00\x00\x0c\x00\x00\x00\x05salt"), secured)
		f.Add([]byte("E\xff\xff\xff\xff"), secured)
		f.Add([]byte("v\x00\x00\x00\x04R\x00\x00\x00\x03"), secured)
		f.Add([]byte("Z\x00\x00\x00\x05I"), secured)
	}
	f.Fuzz(func(t *testing.T, sent []byte, secured bool) {
		if len(sent) > 40_000 {
			return
		}
		g := &guard{server: bytes.NewReader(sent), secured: secured}
		got, err := io.ReadAll(g)
		want, ok := wantedOfGuard(sent, secured)
		if !bytes.Equal(got, sent[:want]) || (err == nil) != ok {
			t.Errorf("sent %q, got %d bytes of it and %v, want %d bytes and no error: %v", sent, len(got), err, want, ok)
		}
		if g.buffered.Cap() > 2*maxErrorMessage+bytes.MinRead {
			t.Errorf("held %d bytes", g.buffered.Cap())
		}
		if err == nil {
			return
		}
		if n, again := g.Read(make([]byte, 10)); n > 0 || again == nil {
			t.Errorf("sent %q: %d bytes are passed on after the error %v", sent, n, err)
		}
	})
}

// Whoever reads on after a refusal does not get the message that was refused.
func TestGuardStaysShut(t *testing.T) {
	t.Parallel()
	g := &guard{server: strings.NewReader("R\x00\x00\x00\x08\x00\x00\x00\x03R\x00\x00\x00\x08\x00\x00\x00\x00")}
	_, first := g.Read(make([]byte, 100))
	if n, err := g.Read(make([]byte, 100)); n != 0 || first == nil || !errors.Is(err, first) {
		t.Errorf("got %d bytes and %v after %v", n, err, first)
	}
}

// wantedOfGuard is how many bytes may pass, and whether there is nothing to object to.
func wantedOfGuard(sent []byte, secured bool) (passed int, ok bool) {
	limits := map[byte]uint32{'R': 2000, 'v': 2000, 'E': 30000}
	for passed < len(sent) {
		rest := sent[passed:]
		if len(rest) < 5 {
			return passed, false
		}
		length := binary.BigEndian.Uint32(rest[1:])
		if length < 4 || length > limits[rest[0]] || int(length) >= len(rest) {
			return passed, false
		}
		message := rest[:length+1]
		if message[0] == 'R' && length >= 8 {
			switch code := binary.BigEndian.Uint32(message[5:]); code {
			case 0:
				return len(sent), true
			case 3, 5:
				if !secured {
					return passed, false
				}
			case 11:
				if iterationsForPgconn(string(message[9:])) > 1_000_000 {
					return passed, false
				}
			}
		}
		passed += len(message)
	}
	return passed, true
}

// iterationsForPgconn reads them as pgconn does, wherever they stand.
func iterationsForPgconn(serverFirst string) int {
	_, after, _ := strings.Cut(serverFirst, ",i=")
	digits, _, _ := strings.Cut(after, ",")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0 // pgconn can't read it either
	}
	return n
}

// A root file is either used or refused.
func FuzzRoots(f *testing.F) {
	f.Add(rdsRoots[:4000])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxFuzzed {
			return
		}
		a, err := parseAnchors(data)
		if (a == nil) == (err == nil) {
			t.Errorf("got %v and %v", a, err)
		}
		// A file with a certificate that can't be read is refused as a whole.
		if certificates, readable := pemCertificates(data); (err == nil) != (certificates > 0 && certificates == readable) {
			t.Errorf("%d certificates, of which %d can be read: got %v", certificates, readable, err)
		}
	})
}

const maxFuzzed = 16 << 10 // longer files take long and show nothing new

func pemCertificates(data []byte) (found, readable int) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		found++
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			readable++
		}
	}
	return found, readable
}

// The shipped roots are all ends of chains, none is left out, and none has expired.
func TestShippedRoots(t *testing.T) {
	t.Parallel()
	found := 0
	for data := rdsRoots; ; found++ {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !cert.IsCA || !bytes.Equal(cert.RawIssuer, cert.RawSubject) || cert.NotAfter.Before(time.Now().AddDate(1, 0, 0)) ||
			!slices.Equal(cert.Subject.Organization, []string{"Amazon Web Services, Inc."}) {
			t.Errorf("%s, valid until %v", cert.Subject, cert.NotAfter)
		}
	}
	if want := bytes.Count(rdsRoots, []byte("BEGIN CERTIFICATE")); found != want || found < 80 {
		t.Errorf("got %d roots, want %d", found, want)
	}
}
