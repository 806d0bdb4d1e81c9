package upstream

import (
	"fmt"
	"slices"
)

// SSLMode says whether and how a connection to the server is encrypted and verified. Its values are libpq's
// sslmode (https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION). The zero value is no
// mode; configuration defaults to VerifyFull.
type SSLMode string

// The six modes, weakest first.
const (
	Disable    SSLMode = "disable"     // plaintext only
	Allow      SSLMode = "allow"       // plaintext; TLS when the server refuses plaintext
	Prefer     SSLMode = "prefer"      // TLS; plaintext when the server has none
	Require    SSLMode = "require"     // TLS; the certificate is verified only if a root certificate is given, as by libpq
	VerifyCA   SSLMode = "verify-ca"   // TLS; the certificate's chain is verified, not its name
	VerifyFull SSLMode = "verify-full" // TLS; chain and name are verified
)

var sslModes = []SSLMode{Disable, Allow, Prefer, Require, VerifyCA, VerifyFull}

// UnmarshalText accepts exactly the six names.
func (m *SSLMode) UnmarshalText(text []byte) error {
	mode := SSLMode(text)
	if !slices.Contains(sslModes, mode) {
		return fmt.Errorf("unknown SSL mode %q (want disable, allow, prefer, require, verify-ca or verify-full)", text)
	}
	*m = mode
	return nil
}

// SSLNegotiation says how TLS starts. Its values are libpq's sslnegotiation
// (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-SSLNEGOTIATION).
type SSLNegotiation string

// The two ways.
const (
	Postgres SSLNegotiation = "postgres" // ask for TLS first, as all versions understand
	Direct   SSLNegotiation = "direct"   // begin with TLS: one round trip less, PostgreSQL 17 and later
)

// UnmarshalText accepts exactly the two names.
func (n *SSLNegotiation) UnmarshalText(text []byte) error {
	switch SSLNegotiation(text) {
	case Postgres, Direct:
		*n = SSLNegotiation(text)
		return nil
	}
	return fmt.Errorf("unknown SSL negotiation %q (want postgres or direct)", text)
}

// Verifies reports whether the mode never talks to a server whose certificate it did not verify.
func (m SSLMode) Verifies() bool { return m == VerifyCA || m == VerifyFull }

// encryption is what one attempt to connect asks of the connection.
type encryption int

const (
	plaintext    encryption = iota
	tlsIfOffered            // go on in plaintext if the server answers SSLRequest with 'N'
	tlsRequired
)

// attempts are the connections that the mode tries, in order. Another attempt follows only a server that answered
// and refused the one before; see Connect.
func (m SSLMode) attempts() []encryption {
	switch m {
	case Disable:
		return []encryption{plaintext}
	case Allow:
		return []encryption{plaintext, tlsRequired}
	case Prefer:
		// libpq would go on in plaintext after a failed handshake, a failed verification or a refused log-in, and
		// would send the password again. This package does not: who can break TLS must not be given plaintext.
		return []encryption{tlsIfOffered}
	default:
		return []encryption{tlsRequired}
	}
}
