package proxy

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"

	"github.com/hourgate/hourgate/internal/strangers"
	"github.com/hourgate/hourgate/internal/verifier"
)

// SASL mechanisms; https://www.postgresql.org/docs/current/sasl-authentication.html.
const (
	scramSHA256     = "SCRAM-SHA-256"
	scramSHA256Plus = "SCRAM-SHA-256-PLUS"

	// maxSASLMessage is PostgreSQL's bound, with the length word (PG_MAX_SASL_MESSAGE_LENGTH, src/backend/libpq/auth-sasl.c).
	// A stranger can make us allocate this much.
	maxSASLMessage = 1024
)

// authenticate proves who the user is. Whether the name exists shows in nothing: an unknown user gets a challenge made
// from the name and a secret of this process, and fails where a wrong password fails.
func (s *session) authenticate() error {
	if s.operator {
		// client ← AuthenticationOk
		s.isUser("operator", "admin socket")
		return s.send(&pgproto3.AuthenticationOk{})
	}
	if err := s.slowDown(); err != nil {
		return err
	}
	s.policy = s.server.cfg.Policy.Set()
	if s.certificateIsEnough() {
		// client ← AuthenticationOk
		s.isUser(s.startup.user, "certificate")
		return s.send(&pgproto3.AuthenticationOk{})
	}
	return s.exchangeSCRAM()
}

// exchangeSCRAM asks for the password by SCRAM-SHA-256 (RFC 7677), bound to the TLS connection if the client can do that.
func (s *session) exchangeSCRAM() error {
	conversation, binding, err := s.newConversation()
	if err != nil {
		return err
	}

	// client ← AuthenticationSASL
	mechanisms := []string{scramSHA256}
	if binding {
		mechanisms = []string{scramSHA256Plus, scramSHA256}
	}
	if err := s.send(&pgproto3.AuthenticationSASL{AuthMechanisms: mechanisms}); err != nil {
		return err
	}

	// client → SASLInitialResponse
	body, err := s.readSASL()
	if err != nil {
		return err
	}
	mechanism, first, ok := parseInitialResponse(body)
	if !ok || !validMechanism(mechanism, first, binding) {
		return errMechanism
	}
	challenge, err := firstStep(conversation, first)
	if err != nil {
		return s.authenticationFailed(err)
	}

	// client ← AuthenticationSASLContinue
	if err := s.send(&pgproto3.AuthenticationSASLContinue{Data: []byte(challenge)}); err != nil {
		return err
	}
	defer s.dialEarly()()

	// client → SASLResponse
	if body, err = s.readSASL(); err != nil {
		return err
	}
	if err := s.takeTurn(); err != nil {
		return err
	}
	final, err := conversation.Step(string(body))
	if err == nil && bytes.IndexByte(body, 0) >= 0 {
		err = errMalformedSCRAM
	}
	if err != nil || !conversation.Valid() {
		return s.authenticationFailed(err)
	}
	s.server.guesses.Succeeded(s.guessKey())

	// client ← AuthenticationSASLFinal, AuthenticationOk
	if s.policy.Certificate(s.startup.user) != "" {
		mechanism = "certificate, " + mechanism
	}
	s.isUser(s.startup.user, mechanism)
	return s.send(&pgproto3.AuthenticationSASLFinal{Data: []byte(final)}, &pgproto3.AuthenticationOk{})
}

// firstStep makes the challenge, unless the client-first-message is one that PostgreSQL refuses and the library does not.
func firstStep(conversation *scram.ServerConversation, message string) (challenge string, err error) {
	challenge, err = conversation.Step(message)
	switch {
	case err != nil:
		return "", err
	case !printableNonce(message):
		return "", errMalformedSCRAM
	case conversation.AuthzID() != "":
		return "", errAuthorizationIdentity
	}
	return challenge, nil
}

// isUser says who the client has proved to be, and how.
func (s *session) isUser(name, proof string) {
	s.user, s.proof = name, proof
	s.log = s.log.With("user", strangers.Printable(name))
}

// newConversation looks the verifier up by the StartupMessage's user; the name inside the SCRAM messages is ignored, as
// PostgreSQL does, since drivers put different things there.
func (s *session) newConversation() (c *scram.ServerConversation, binding bool, err error) {
	// The mock is made for everybody, so that it takes no longer for a user who does not exist.
	v := verifier.Mock(s.server.mockSecret[:], s.startup.user)
	if real, known := s.policy.Verifier(s.startup.user); known && s.certificateFits() {
		v = real
	}
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) {
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(v.Salt), Iters: v.Iterations},
			StoredKey:  v.StoredKey, ServerKey: v.ServerKey,
		}, nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("starting SCRAM: %w", err)
	}
	if data, ok := endpointBinding(s.leaf); ok {
		return server.NewConversationWithChannelBinding(scram.ChannelBinding{
			Type: scram.ChannelBindingTLSServerEndpoint, Data: data,
		}), true, nil
	}
	return server.NewConversation(), false, nil
}

// certificateIsEnough reports that the user has no password but a certificate, and shows it.
func (s *session) certificateIsEnough() bool {
	set := s.policy
	_, password := set.Verifier(s.startup.user)
	return !password && set.Certificate(s.startup.user) != "" && s.certificateFits()
}

// certificateFits reports that the user needs no certificate, or shows the right one. Who does not fails where a wrong
// password fails.
func (s *session) certificateFits() bool {
	name := s.policy.Certificate(s.startup.user)
	if name == "" {
		return true
	}
	chains := s.tlsState().VerifiedChains // empty without a certificate of one of our authorities
	return len(chains) > 0 && certificateNames(chains[0][0], name)
}

// certificateNames reports that a certificate has the name, as a subject alternative name of type DNS, e-mail address or URI.
// The subject's common name counts only for a certificate without any alternative name (RFC 6125, section 6.4.4; RFC 9525
// does away with it): an authority checks those that it signs, and may take the common name from a form.
func certificateNames(cert *x509.Certificate, name string) bool {
	if !slices.ContainsFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(subjectAltName) }) {
		return cert.Subject.CommonName == name
	}
	return slices.Contains(cert.DNSNames, name) || slices.Contains(cert.EmailAddresses, name) ||
		slices.ContainsFunc(cert.URIs, func(u *url.URL) bool { return u.String() == name })
}

var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280, section 4.2.1.6

// endpointBinding is tls-server-end-point (RFC 5929, section 4.1): the hash of our certificate by its signature's hash
// function, SHA-256 in place of anything weaker. It is not defined for signatures without one, such as Ed25519.
func endpointBinding(leaf *x509.Certificate) ([]byte, bool) {
	if leaf == nil {
		return nil, false
	}
	var h hash.Hash
	switch leaf.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		h = sha256.New()
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		h = sha512.New384()
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		h = sha512.New()
	default:
		return nil, false
	}
	h.Write(leaf.Raw)
	return h.Sum(nil), true
}

// errAuthorizationIdentity is for the log: who somebody wants to act as is for the policy alone to say.
var errAuthorizationIdentity = errors.New("client sent an authorization identity")

// errMalformedSCRAM is for the log: our library takes messages that PostgreSQL does not.
var errMalformedSCRAM = errors.New("malformed SCRAM message")

// printableNonce holds a client-first-message against what PostgreSQL insists on (read_client_first_message,
// auth-scram.c): no NUL anywhere, and a nonce of printable ASCII, which is sent back in the challenge.
func printableNonce(first string) bool {
	fields := strings.SplitN(first, ",", 5) // binding flag, authorization identity, name, nonce, extensions
	return !strings.Contains(first, "\x00") && len(fields) >= 4 &&
		!strings.ContainsFunc(fields[3], func(r rune) bool { return r < '!' || r > '~' })
}

// parseInitialResponse takes a SASLInitialResponse apart. Unlike pgproto3 it insists, as PostgreSQL does, that the
// message ends where its inner length says.
func parseInitialResponse(body []byte) (mechanism, data string, ok bool) {
	name, rest, ok := bytes.Cut(body, []byte{0})
	if !ok || len(rest) < 4 || int64(binary.BigEndian.Uint32(rest)) != int64(len(rest)-4) {
		return "", "", false
	}
	return string(name), string(rest[4:]), true
}

// validMechanism holds the mechanism's name against the message: -PLUS means channel binding, and nothing else does.
func validMechanism(mechanism, data string, binding bool) bool {
	bound := strings.HasPrefix(data, "p=")
	switch mechanism {
	case scramSHA256:
		return !bound
	case scramSHA256Plus:
		return binding && bound
	}
	return false
}

// readSASL reads one SASL message with exact lengths and returns its body.
func (s *session) readSASL() ([]byte, error) {
	var header [5]byte
	if _, err := io.ReadFull(s.client, header[:]); err != nil {
		return nil, s.startupReadError(err)
	}
	length := binary.BigEndian.Uint32(header[1:])
	switch {
	case header[0] == 'X':
		return nil, errDisconnect // Terminate: a driver that does not know SCRAM gives up
	case header[0] != 'p':
		return nil, protocolViolation(fmt.Sprintf("expected SASL response, got message type %d", header[0]))
	case length < 4 || length > maxSASLMessage:
		return nil, protocolViolation("invalid length of SASL message")
	}
	body := make([]byte, length-4)
	if _, err := io.ReadFull(s.client, body); err != nil {
		return nil, s.startupReadError(err)
	}
	return body, nil
}
