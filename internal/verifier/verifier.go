// Package verifier reads, makes and writes SCRAM-SHA-256 verifiers in the form in which PostgreSQL stores passwords:
//
//	SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>
//
// with salt and keys in base64 (PostgreSQL's src/backend/libpq/auth-scram.c and src/common/scram-common.c, RFC 5803).
// The exchange itself is not here. A verifier is a secret: who has it can guess passwords offline and can pose as the
// server, so only [Verifier.Encode] prints one.
package verifier

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

const (
	// DefaultIterations is what PostgreSQL uses unless told otherwise, and what RFC 7677 asks for at least.
	DefaultIterations = 4096

	// MaxIterations is the most that Parse and New accept. The client does this work at each login, some seconds of
	// it at this number; more is a slip of the hand.
	MaxIterations = 10_000_000

	scheme     = "SCRAM-SHA-256"
	saltLength = 16 // that of PostgreSQL's own verifiers
)

// A Verifier is what a server keeps in place of a password. The zero Verifier is none. All ways to print it but Encode
// leave salt and keys out; fmt cannot do so for a Verifier in an unexported field.
type Verifier struct {
	Iterations int    // of PBKDF2, from 1 to MaxIterations
	Salt       []byte // at least one byte
	StoredKey  []byte // SHA-256 of the client key, 32 bytes
	ServerKey  []byte // 32 bytes
}

// New derives the verifier of password with a fresh random salt of 16 bytes. It refuses an empty password, as
// PostgreSQL does, and iterations outside 1 to MaxIterations.
func New(password string, iterations int) (Verifier, error) {
	salt := make([]byte, saltLength)
	rand.Read(salt) // never fails: crypto/rand ends the process instead
	return derive(password, salt, iterations)
}

// derive is the arithmetic of RFC 5802, section 3.
func derive(password string, salt []byte, iterations int) (Verifier, error) {
	if password == "" {
		return Verifier{}, errors.New("the password is empty")
	}
	if iterations < 1 || iterations > MaxIterations {
		return Verifier{}, fmt.Errorf("iterations must be from 1 to %d, got %d", MaxIterations, iterations)
	}
	salted, err := pbkdf2.Key(sha256.New, prepare(password), salt, iterations, sha256.Size)
	if err != nil {
		return Verifier{}, fmt.Errorf("deriving the key: %w", err)
	}
	storedKey := sha256.Sum256(mac(salted, "Client Key"))
	return Verifier{
		Iterations: iterations,
		Salt:       salt,
		StoredKey:  storedKey[:],
		ServerKey:  mac(salted, "Server Key"),
	}, nil
}

// Mock returns a verifier for a user who does not exist, so that a login with that name goes as far as one with a
// wrong password: it is the same each time, and no password matches it. secret is random, at least 32 bytes, and
// stays the same for as long as users should look the same, across restarts too.
//
// It looks like a verifier with DefaultIterations and a salt of New's length; users with other numbers stand out.
func Mock(secret []byte, user string) Verifier {
	return Verifier{
		Iterations: DefaultIterations,
		Salt:       mac(secret, "salt\x00"+user)[:saltLength],
		StoredKey:  mac(secret, "stored key\x00"+user),
		ServerKey:  mac(secret, "server key\x00"+user),
	}
}

func mac(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}

var errForm = errors.New("not a verifier: put what `hourgate passwd` prints here (SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>)")

// Parse reads a verifier in PostgreSQL's form, strictly: what it accepts, Encode gives back unchanged. Its errors
// never repeat a part of the text.
func Parse(text string) (Verifier, error) {
	method, rest, ok1 := strings.Cut(text, "$")
	head, keys, ok2 := strings.Cut(rest, "$")
	count, salt, ok3 := strings.Cut(head, ":")
	stored, server, ok4 := strings.Cut(keys, ":")
	if !ok1 || !ok2 || !ok3 || !ok4 || method != scheme {
		return Verifier{}, errForm
	}
	var v Verifier
	var err error
	if v.Iterations, err = parseIterations(count); err != nil {
		return Verifier{}, err
	}
	if v.Salt, err = decode(salt); err != nil || len(v.Salt) == 0 {
		return Verifier{}, errors.New("the verifier's salt is not base64")
	}
	if v.StoredKey, err = decode(stored); err != nil || len(v.StoredKey) != sha256.Size {
		return Verifier{}, errors.New("the verifier's stored key is not 32 bytes in base64")
	}
	if v.ServerKey, err = decode(server); err != nil || len(v.ServerKey) != sha256.Size {
		return Verifier{}, errors.New("the verifier's server key is not 32 bytes in base64")
	}
	return v, nil
}

func parseIterations(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > MaxIterations || strconv.Itoa(n) != text {
		return 0, fmt.Errorf("the verifier's iterations are not a number from 1 to %d", MaxIterations)
	}
	return n, nil
}

// decode reads base64 in the one form that encode writes; Go's decoder alone passes over line ends.
func decode(text string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err == nil && base64.StdEncoding.EncodedLen(len(b)) != len(text) {
		return nil, errors.New("line end in base64")
	}
	return b, err
}

// Encode returns the verifier in PostgreSQL's form, for a policy file or for CREATE ROLE … PASSWORD. It is the only
// method that gives the secret away.
func (v Verifier) Encode() string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s$%d:%s$%s:%s", scheme, v.Iterations, b64(v.Salt), b64(v.StoredKey), b64(v.ServerKey))
}

// IsZero reports whether v is no verifier at all: a user without a password.
func (v Verifier) IsZero() bool { return v.Iterations == 0 }

// Equal reports whether v and o are the same verifier.
func (v Verifier) Equal(o Verifier) bool {
	return v.Iterations == o.Iterations && bytes.Equal(v.Salt, o.Salt) && bytes.Equal(v.StoredKey, o.StoredKey) && bytes.Equal(v.ServerKey, o.ServerKey)
}

// UnmarshalText is Parse, for configuration files.
func (v *Verifier) UnmarshalText(text []byte) (err error) {
	*v, err = Parse(string(text))
	return err
}

const redacted = scheme + "$(redacted)"

// String returns a constant in the verifier's stead.
func (v Verifier) String() string { return redacted }

// Format prints what String returns, whatever the verb.
func (v Verifier) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// MarshalText returns what String returns, so it is no inverse of UnmarshalText.
func (v Verifier) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns what String returns.
func (v Verifier) LogValue() slog.Value { return slog.StringValue(redacted) }
