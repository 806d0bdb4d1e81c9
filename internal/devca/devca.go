// Package devca makes a certificate authority of one's own and certificates of it: for the demo, the benchmarks, and a gate
// that is tried out. It is no PKI: there is no revocation and no renewal, and whoever has the key can name anybody.
package devca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority signs certificates. All keys are ECDSA P-256.
type Authority struct {
	CertFile string // PEM

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	life time.Duration
}

// New makes an authority, whose certificate it writes to ca.crt in the folder. It and all certificates of it are good for
// life, and from an hour ago on. The key is kept nowhere: what New's caller has issued is all that there will be.
func New(commonName, folder string, life time.Duration) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &Authority{CertFile: filepath.Join(folder, "ca.crt"), key: key, life: life}
	template := a.template(commonName)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, writePEM(a.CertFile, "CERTIFICATE", der)
}

// Issue writes a certificate for a server with these names and addresses to server.crt and server.key in the folder. Without
// any it is for this machine: localhost and 127.0.0.1.
func (a *Authority) Issue(folder string, hosts ...string) error {
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1"}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := a.template(hosts[0])
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(filepath.Join(folder, "server.crt"), "CERTIFICATE", der),
		writePEM(filepath.Join(folder, "server.key"), "PRIVATE KEY", keyDER))
}

// template leaves the serial number to crypto/x509.
func (a *Authority) template(commonName string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(a.life),
	}
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
