package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// verification is how much of the server's certificate an SSL mode looks at.
type verification int

const (
	unverified    verification = iota
	verifiedChain              // it comes from an authority that we trust
	verifiedName               // and it is for this server
)

// verification follows libpq: any root certificate makes weaker modes verify the chain.
func (c Config) verification() verification {
	switch {
	case c.SSLMode == Disable || c.RootCert == "":
		return unverified
	case c.SSLMode == VerifyFull:
		return verifiedName
	default:
		return verifiedChain
	}
}

// verify checks the certificate that the server has shown, for server authentication and at this moment.
func (s *Server) verify(state tls.ConnectionState) error {
	anchors, err := s.roots.get()
	if err != nil {
		return fmt.Errorf("ssl_root_cert: %w", err)
	}
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	now := time.Now()
	if !s.chain.Load().covers(anchors, state.PeerCertificates, now) {
		chain, err := verifyChain(anchors, state.PeerCertificates, now)
		if err != nil {
			return err
		}
		s.chain.Store(chain)
	}
	leaf := state.PeerCertificates[0]
	if s.cfg.verification() == verifiedName && !matchesHost(leaf, s.cfg.serverName()) {
		return fmt.Errorf("the server's certificate is for %s, not for %q", names(leaf), s.cfg.serverName())
	}
	return nil
}

// trustedChain is a chain that was verified a moment ago: a server shows the same one at every log-in, and its signatures
// are 8 % of what a log-in costs the gate. Nothing but a new root file or the passing of time can make it invalid.
type trustedChain struct {
	anchors     *anchors // that it ends in
	shown       []*x509.Certificate
	from, until time.Time
}

// verifiedFor is how long a verification holds, if no certificate expires before.
const verifiedFor = time.Minute

func verifyChain(anchors *anchors, shown []*x509.Certificate, now time.Time) (*trustedChain, error) {
	intermediates := anchors.intermediates.Clone()
	for _, cert := range shown[1:] {
		intermediates.AddCert(cert)
	}
	chains, err := shown[0].Verify(x509.VerifyOptions{Roots: anchors.roots, Intermediates: intermediates, CurrentTime: now})
	if err != nil {
		return nil, err
	}
	until := now.Add(verifiedFor)
	for _, cert := range chains[0] {
		if cert.NotAfter.Before(until) {
			until = cert.NotAfter
		}
	}
	return &trustedChain{anchors: anchors, shown: shown, from: now, until: until}, nil
}

// covers reports that these are the certificates, and that the verification still holds. The nil chain covers nothing.
func (v *trustedChain) covers(anchors *anchors, shown []*x509.Certificate, now time.Time) bool {
	return v != nil && v.anchors == anchors && !now.Before(v.from) && now.Before(v.until) &&
		slices.EqualFunc(v.shown, shown, (*x509.Certificate).Equal)
}

// matchesHost holds a certificate's names against a host name or address, as libpq 15 and later do: the common name
// counts only if there is no subject alternative name of the host's kind, and a DNS name in the certificate is compared
// as text even with an address. See pq_verify_peer_name_matches_certificate in PostgreSQL's fe-secure-openssl.c. Go's own
// rules never look at the common name.
func matchesHost(cert *x509.Certificate, host string) bool {
	ip := net.ParseIP(host)
	for _, name := range cert.DNSNames {
		if matchesName(name, host) {
			return true
		}
	}
	for _, address := range cert.IPAddresses {
		if ip != nil && address.Equal(ip) {
			return true
		}
	}
	if ip == nil && len(cert.DNSNames) > 0 || ip != nil && len(cert.IPAddresses) > 0 {
		return false
	}
	return matchesName(cert.Subject.CommonName, host)
}

// matchesName knows one kind of wildcard: "*." for exactly one label on the left.
func matchesName(name, host string) bool {
	if strings.EqualFold(name, host) {
		return name != "" && !strings.ContainsRune(name, 0)
	}
	domain, wild := strings.CutPrefix(name, "*.")
	label, rest, dotted := strings.Cut(host, ".")
	return wild && domain != "" && dotted && label != "" && strings.EqualFold(domain, rest)
}

func names(cert *x509.Certificate) string {
	all := append([]string{}, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	if cert.Subject.CommonName != "" {
		all = append(all, "CN="+cert.Subject.CommonName)
	}
	const most = 10 // a certificate may have hundreds
	more := ""
	if n := len(all) - most; n > 0 {
		all, more = all[:most], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%q%s", all, more)
}

// Encryption is what was negotiated with the server on one connection.
type Encryption struct {
	Version  string // such as "TLS 1.3"; "" is plaintext
	Verified string // "chain" or "name"; "" is not at all
}

// String is for records and logs: "none", "TLS 1.3, not verified", "TLS 1.3, chain verified" or "TLS 1.3, verified".
func (e Encryption) String() string {
	switch {
	case e.Version == "":
		return "none"
	case e.Verified == "":
		return e.Version + ", not verified"
	case e.Verified == "chain":
		return e.Version + ", chain verified"
	}
	return e.Version + ", verified"
}

// Label is for metrics: one of "none", "unverified", "chain" and "verified".
func (e Encryption) Label() string {
	switch {
	case e.Version == "":
		return "none"
	case e.Verified == "":
		return "unverified"
	case e.Verified == "chain":
		return "chain"
	}
	return "verified"
}

// Describe says how a connection that Connect opened is encrypted.
func (s *Server) Describe(conn net.Conn) Encryption {
	secured, ok := conn.(*tls.Conn)
	if !ok {
		return Encryption{}
	}
	return Encryption{
		Version:  tls.VersionName(secured.ConnectionState().Version),
		Verified: [...]string{unverified: "", verifiedChain: "chain", verifiedName: "name"}[s.cfg.verification()],
	}
}
