package upstream

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"slices"
	"testing"
	"time"
)

// Whatever a server sends during the log-in, the guard passes on a prefix of it, whole messages only, and holds no more
// than one of them.
func FuzzGuard(f *testing.F) {
	f.Add([]byte("R\x00\x00\x00\x08\x00\x00\x00\x00S\x00\x00\x00\x05x"))
	f.Add([]byte("R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00R\x00\x00\x00\x19\x00\x00\x00\x0br=a,s=b,i=1000001"))
	f.Add([]byte("E\xff\xff\xff\xff"))
	f.Add([]byte("v\x00\x00\x00\x04R\x00\x00\x00\x03"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		g := &guard{server: bytes.NewReader(sent)}
		got, err := io.ReadAll(g)
		if !bytes.HasPrefix(sent, got) {
			t.Errorf("sent %q, got %q", sent, got)
		}
		if err == nil && len(got) != len(sent) {
			t.Errorf("%d bytes of %d are missing, and no error", len(sent)-len(got), len(sent))
		}
		if g.buffered.Cap() > 2*maxErrorMessage+bytes.MinRead {
			t.Errorf("held %d bytes", g.buffered.Cap())
		}
	})
}

// A root file is either used or refused.
func FuzzRoots(f *testing.F) {
	f.Add(rdsRoots[:4000])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := parseAnchors(data); (a == nil) == (err == nil) {
			t.Errorf("got %v and %v", a, err)
		}
	})
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
