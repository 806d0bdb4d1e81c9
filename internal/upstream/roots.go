package upstream

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/hourgate/hourgate/internal/wholefile"
)

// The values of Config.RootCert that are no file.
const (
	RootsSystem = "system" // the operating system's; with VerifyFull only, as by libpq
	RootsRDS    = "rds"    // Amazon RDS's regional roots, shipped with the program: see rds.pem for their source and date
)

//go:embed rds.pem
var rdsRoots []byte

// anchors are the certificates that a chain may end in, and others that help to build it. As with OpenSSL, only a
// self-signed certificate is an end.
type anchors struct{ roots, intermediates *x509.CertPool }

func parseAnchors(data []byte) (*anchors, error) {
	a := &anchors{roots: x509.NewCertPool(), intermediates: x509.NewCertPool()}
	found := false
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate in it: %w", err)
		}
		found = true
		pool := a.intermediates
		if bytes.Equal(cert.RawIssuer, cert.RawSubject) && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
			pool = a.roots
		}
		pool.AddCert(cert)
	}
	if !found {
		return nil, errors.New("holds no PEM certificate")
	}
	return a, nil
}

// allRoots are the anchors by the names of their files. Servers share them: to read those of RDS takes tens of
// milliseconds and two megabytes, and there may be a thousand servers.
var allRoots sync.Map // of *watched[*anchors]

// rootsOf returns where the anchors of a mode come from: nil where nothing is verified.
func rootsOf(rootCert string) *watched[*anchors] {
	if rootCert == "" {
		return nil
	}
	shared, _ := allRoots.LoadOrStore(rootCert, newRoots(rootCert))
	return shared.(*watched[*anchors]) //nolint:forcetypeassert // nothing else is stored
}

func newRoots(rootCert string) *watched[*anchors] {
	switch rootCert {
	case RootsRDS:
		return &watched[*anchors]{load: func() (*anchors, error) { return parseAnchors(rdsRoots) }}
	case RootsSystem:
		return &watched[*anchors]{load: func() (*anchors, error) {
			pool, err := x509.SystemCertPool()
			return &anchors{roots: pool, intermediates: x509.NewCertPool()}, err
		}}
	}
	return &watched[*anchors]{files: []string{rootCert}, load: func() (*anchors, error) {
		data, err := wholefile.Content(rootCert) // a pipe there must not hold up whoever ends access
		if err != nil {
			return nil, err
		}
		a, err := parseAnchors(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rootCert, err)
		}
		return a, nil
	}}
}

func clientCertOf(certFile, keyFile string) *watched[*tls.Certificate] {
	if certFile == "" {
		return nil
	}
	return &watched[*tls.Certificate]{files: []string{certFile, keyFile}, load: func() (*tls.Certificate, error) {
		cert, err := wholefile.KeyPair(certFile, keyFile)
		return &cert, err
	}}
}

// watched is what was read from files, read again when they change, so that a new authority or certificate needs no
// restart. A file that can't be read is an error, not a reason to go on with what was there before: whoever takes an
// authority away means it.
type watched[T any] struct {
	files []string
	load  func() (T, error)

	mu     sync.Mutex
	stamps []os.FileInfo
	value  T
	loaded bool
}

// unchanged tells one state of a file from another. The time alone would not do: its ticks are milliseconds long.
func unchanged(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

func (w *watched[T]) get() (T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stamps := make([]os.FileInfo, len(w.files))
	for i, file := range w.files {
		info, err := os.Stat(file)
		if err != nil {
			return *new(T), err
		}
		stamps[i] = info
	}
	if w.loaded && slices.EqualFunc(stamps, w.stamps, unchanged) {
		return w.value, nil
	}
	value, err := w.load()
	if err != nil {
		return value, err
	}
	w.value, w.stamps, w.loaded = value, stamps, true
	return value, nil
}
