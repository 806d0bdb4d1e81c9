package gate

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/roles/preflight"
	"github.com/hourgate/hourgate/secrets"
)

// reach opens a connection to the server as the configuration says, without logging in.
func (d *doctor) reach(ctx context.Context, i Integration) bool {
	settings := i.server()
	server, err := upstream.New(settings)
	if err != nil {
		return false // Load has said so
	}
	encryption, shown, err := server.Probe(ctx)
	if err != nil {
		d.add(i.Name, "server", preflight.Fail, "docs/operations.md, \"The admin connection is lost\", goes through the reasons", "%v", err)
		return false
	}
	d.add(i.Name, "server", preflight.OK, "", "%s answers; TLS: %s", server.Address(), encryption)
	for _, note := range settings.Notes() {
		d.add(i.Name, "ssl_mode", preflight.Warn, "ssl_mode: verify-full", "%s", note)
	}
	if len(shown) > 0 {
		d.lasts(i.Name, "server's certificate", firstEnd(shown), "renew it at the server; on RDS: modify the instance's certificate authority")
	}
	return true
}

// firstEnd is the certificate of a chain that ends first.
func firstEnd(chain []*x509.Certificate) *x509.Certificate {
	first := chain[0]
	for _, cert := range chain[1:] {
		if cert.NotAfter.Before(first.NotAfter) {
			first = cert
		}
	}
	return first
}

// lasts says how long a certificate is still good.
func (d *doctor) lasts(integration, what string, cert *x509.Certificate, mend string) {
	left := cert.NotAfter.Sub(d.now)
	switch {
	case d.now.Before(cert.NotBefore):
		d.add(integration, what, preflight.Fail, "the clock of this machine, or a certificate that has begun", "is not good before %s", cert.NotBefore.Format(time.RFC3339))
	case left <= 0:
		d.add(integration, what, preflight.Fail, mend, "ended on %s", cert.NotAfter.Format(time.RFC3339))
	case left < 14*24*time.Hour:
		d.add(integration, what, preflight.Warn, mend, "ends in %d day(s), on %s", int(left.Hours()/24), cert.NotAfter.Format(time.RFC3339))
	default:
		d.add(integration, what, preflight.OK, "", "good until %s", cert.NotAfter.Format(time.RFC3339))
	}
}

// secret reads the admin's credential, and says nothing of it but whose it is.
func (d *doctor) secret(ctx context.Context, i Integration) bool {
	server, err := upstream.New(i.server())
	if err != nil {
		return false
	}
	source, err := secrets.Open(ctx, i.Secret.For(server.Address()))
	if err != nil {
		d.add(i.Name, "secret", preflight.Fail, "", "%v", err)
		return false
	}
	credential, err := source.Fetch(ctx, secrets.Current)
	if err != nil {
		if errors.Is(err, secrets.ErrNoStage) {
			err = errors.New("it has no current version")
		}
		d.add(i.Name, "secret", preflight.Fail, "", "%s: %v", source, err)
		return false
	}
	d.add(i.Name, "secret", preflight.OK, "", "%s has a credential of %s", source, credential.Username)
	return true
}
