package roles

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"strings"
	"time"
)

// Names on the server. An identifier has at most 63 bytes (NAMEDATALEN - 1), longer ones are cut silently.
const (
	rolePrefix      = "hg_"       // ephemeral roles
	profilePrefix   = "hourgate_" // profiles and quarantine roles; must not begin with rolePrefix
	maxIdentifier   = 63
	randomTailBytes = 7 // 56 bits: 12 characters of base32
)

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newRoleName is prefix, person, grant and a random tail. The parts that a person reads are cut so that the tail, which
// makes the name unique, never is.
func newRoleName(user, grant string) string {
	var tail [randomTailBytes]byte
	_, _ = rand.Read(tail[:]) // never fails, see crypto/rand
	random := "_" + lowerBase32.EncodeToString(tail[:])
	room := maxIdentifier - len(rolePrefix) - len(random) - len("_")
	person, _, _ := strings.Cut(user, "@")
	return rolePrefix + identifierPart(person, room/2) + "_" + identifierPart(grant, room/2) + random
}

// identifierPart keeps what reads well without quotes.
func identifierPart(s string, limit int) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		if b.Len() == limit {
			break
		}
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else {
			b.WriteByte('_')
		}
	}
	return b.String()
}

// entry is the ledger's line for one ephemeral role, kept in its COMMENT, which a tenant cannot change.
type entry struct {
	Version     int       `json:"hourgate"`
	Deployment  string    `json:"deployment"`
	Proxy       string    `json:"proxy"`
	Integration string    `json:"integration"`
	User        string    `json:"user"`
	Grant       string    `json:"grant"`
	Until       time.Time `json:"until"`

	// Roles are existing ones that the role is a member of and that owned nothing when it was made. What they own when
	// it is settled, a member has made them own.
	Roles []string `json:"roles,omitempty"`
}

// objectsEntry is the ledger's line for a profile of named objects.
type objectsEntry struct {
	Version    int    `json:"hourgate_objects"`
	Deployment string `json:"deployment"`
	Database   string `json:"database"`
}

func (e objectsEntry) comment() string {
	b, err := json.Marshal(e)
	if err != nil {
		panic("roles: an entry that can't be encoded: " + err.Error()) // strings; can't happen
	}
	return string(b)
}

const ledgerVersion = 1

func (e entry) comment() string {
	e.Version = ledgerVersion
	b, err := json.Marshal(e)
	if err != nil {
		panic("roles: an entry that can't be encoded: " + err.Error()) // strings and a time; can't happen
	}
	return string(b)
}

// parseComment reports whether a comment is a ledger entry of a version that this program knows.
func parseComment(comment string) (entry, bool) {
	var e entry
	if err := json.Unmarshal([]byte(comment), &e); err != nil {
		return entry{}, false
	}
	return e, e.Version == ledgerVersion
}
