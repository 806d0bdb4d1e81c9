package secrets

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Password is a secret string that prints as "[redacted]" in whatever way it is printed. Its zero value is empty.
//
// The string is kept behind a function, because fmt calls no methods on unexported fields: a struct that holds a
// Password in one, printed with %+v, shows an address and not the secret. It also makes == on a Password, or on a
// struct that has one, an error at compile time; use Equal.
type Password struct {
	reveal func() string
}

// NewPassword wraps a secret.
func NewPassword(s string) Password {
	return Password{reveal: func() string { return s }}
}

// Reveal returns the secret itself. Each call of it is a place to look at in a review.
func (p Password) Reveal() string {
	if p.reveal == nil {
		return ""
	}
	return p.reveal()
}

// Equal compares two secrets in a time that depends only on their lengths.
func (p Password) Equal(q Password) bool {
	return subtle.ConstantTimeCompare([]byte(p.Reveal()), []byte(q.Reveal())) == 1
}

// String returns "[redacted]".
func (Password) String() string { return redacted }

// GoString returns "[redacted]".
func (Password) GoString() string { return redacted }

// Format writes "[redacted]" for every verb and flag.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (Password) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]"; encoding/json and yaml use it too.
func (Password) MarshalText() ([]byte, error) { return []byte(redacted), nil }
