package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// maxDocument is the longest document that is read, in bytes. It is the limit of Secrets Manager itself; a longer
	// file or output is a mistake, and must not fill the memory.
	maxDocument = 64 << 10

	// maxUsername is NAMEDATALEN-1: PostgreSQL cuts a longer name, and then it may be another role's.
	maxUsername = 63
)

// ErrMalformed is wrapped by the errors about a document that was fetched but can't be used. Their texts never hold
// any of its content.
var ErrMalformed = errors.New("malformed secret")

// Credential is the admin user of an integration.
type Credential struct {
	Username string   // 1 to 63 bytes of UTF-8 without NUL
	Password Password // not empty, UTF-8 without NUL

	// Token says that Password is a token that is sent in cleartext, so only to a server whose name was verified. It
	// changes with every fetch.
	Token bool
}

// Equal says whether both are the same user and password.
func (c Credential) Equal(d Credential) bool {
	return c.Username == d.Username && c.Token == d.Token && c.Password.Equal(d.Password)
}

// parse reads a document {"username": …, "password": …}. Keys are case-sensitive, as AWS has them; all other keys
// (engine, host, port, dbname, …) are ignored.
func parse(doc []byte) (Credential, error) {
	// The errors of encoding/json quote their input, so none is passed on.
	if len(doc) > maxDocument {
		return Credential{}, malformed("longer than %d bytes", maxDocument)
	}
	if len(bytes.TrimSpace(doc)) == 0 {
		return Credential{}, malformed("empty")
	}
	if !utf8.Valid(doc) {
		return Credential{}, malformed("not valid UTF-8")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(doc, &fields); err != nil || fields == nil {
		return Credential{}, malformed(`not a JSON object such as {"username": "…", "password": "…"}`)
	}
	username, err := text(fields, "username")
	if err != nil {
		return Credential{}, err
	}
	if len(username) > maxUsername {
		return Credential{}, malformed(`"username" is longer than %d bytes`, maxUsername)
	}
	password, err := text(fields, "password")
	if err != nil {
		return Credential{}, err
	}
	return Credential{Username: username, Password: NewPassword(password)}, nil
}

func text(fields map[string]json.RawMessage, key string) (string, error) {
	raw, ok := fields[key]
	if !ok {
		return "", malformed("no key %q (keys are case-sensitive)", key)
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", malformed("%q is not a string", key)
	}
	if *s == "" {
		return "", malformed("%q is empty", key)
	}
	if strings.ContainsRune(*s, 0) {
		return "", malformed("%q has a NUL in it", key)
	}
	return *s, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}
