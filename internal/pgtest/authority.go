package pgtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority is a certificate authority. All its keys are ECDSA P-256.
type Authority struct {
	CertFile string // PEM

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CA makes a certificate authority. Its files, and those that it issues, go when the test ends.
func CA(t testing.TB) *Authority {
	t.Helper()
	authority, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatalf("making certificate authority: %v", err)
	}
	return authority
}

// Issue signs a certificate, for servers and for clients, and writes it and its key to files in PEM. The
// hosts are DNS names or IP addresses; the first is also the common name, so for a client certificate it
// is the user's name.
func (a *Authority) Issue(t testing.TB, hosts ...string) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile, err := a.issue(a.dir, hosts...)
	if err != nil {
		t.Fatalf("issuing certificate: %v", err)
	}
	return certFile, keyFile
}

// IssueCustom signs a certificate that change may alter in every way; it starts as a server's without any name.
func (a *Authority) IssueCustom(t testing.TB, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := newTemplate("")
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	change(template)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatalf("issuing certificate: %v", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Intermediate makes an authority that this one has signed.
func (a *Authority) Intermediate(t testing.TB) *Authority {
	t.Helper()
	authority, err := signedAuthority(t.TempDir(), "Hourgate test intermediate CA", a)
	if err != nil {
		t.Fatalf("making intermediate authority: %v", err)
	}
	return authority
}

// DER is the authority's own certificate.
func (a *Authority) DER() []byte { return a.cert.Raw }

func newAuthority(dir string) (*Authority, error) {
	return signedAuthority(dir, "Hourgate test CA", nil)
}

// signedAuthority makes an authority that parent has signed, or itself if there is none.
func signedAuthority(dir, name string, parent *Authority) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := newTemplate(name)
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if parent == nil {
		parent = &Authority{cert: template, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, &key.PublicKey, parent.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "ca.pem")
	return &Authority{CertFile: file, dir: dir, cert: cert, key: key}, writePEM(file, "CERTIFICATE", der, 0o644)
}

func (a *Authority) issue(dir string, hosts ...string) (certFile, keyFile string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := newTemplate(hosts[0])
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return "", "", err
	}
	return writePair(dir, der, key)
}

// newTemplate leaves the serial number to crypto/x509. The certificate is valid from before 2000, where
// the clock of a testing/synctest bubble starts.
func newTemplate(commonName string) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: commonName},
		NotBefore: time.Date(1999, time.January, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:  time.Now().AddDate(10, 0, 0),
	}
}

func writePair(dir string, certDER []byte, key *ecdsa.PrivateKey) (certFile, keyFile string, err error) {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	base := filepath.Join(dir, rand.Text()[:8])
	certFile, keyFile = base+".pem", base+"-key.pem"
	if err := writePEM(certFile, "CERTIFICATE", certDER, 0o644); err != nil {
		return "", "", err
	}
	if err := writePEM(keyFile, "PRIVATE KEY", keyDER, 0o600); err != nil {
		return "", "", err
	}
	return certFile, keyFile, nil
}

func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return fmt.Errorf("writing %s: %w", kind, err)
	}
	return nil
}
