// Package ledger is how Hourgate's roles are known on a server: their names, and the COMMENT that says whose each is. The
// database itself is the ledger, so that a process with no memory can settle what another one left.
package ledger

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hourgate/hourgate/audit"
)

// Names on the server. An identifier has at most 63 bytes (NAMEDATALEN - 1), longer ones are cut silently.
const (
	RolePrefix    = "hg_"       // ephemeral roles
	ProfilePrefix = "hourgate_" // profiles and quarantine roles; must not begin with RolePrefix
	MaxIdentifier = 63

	randomTailBytes = 7 // 56 bits: 12 characters of base32
)

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewRoleName is prefix, person, grant and a random tail. The parts that a person reads are cut so that the tail, which
// makes the name unique, never is.
func NewRoleName(user, grant string) string {
	var tail [randomTailBytes]byte
	_, _ = rand.Read(tail[:]) // never fails, see crypto/rand
	return NamePrefix(user, grant) + lowerBase32.EncodeToString(tail[:])
}

// NamePrefix is what the names of all roles for the person and the grant begin with. Names of others may begin with it too.
func NamePrefix(user, grant string) string {
	const room = MaxIdentifier - len(RolePrefix) - len("_") - len("_") - (randomTailBytes*8+4)/5
	person, _, _ := strings.Cut(user, "@")
	return RolePrefix + Part(person, room/2) + "_" + Part(grant, room/2) + "_"
}

// Part is what of s fits into a name within the limit, in bytes. It keeps what reads well without quotes.
func Part(s string, limit int) string {
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

// Entry is the ledger's line for one ephemeral role, kept in its COMMENT, which a tenant cannot change.
type Entry struct {
	Version     int       `json:"hourgate"`
	Deployment  string    `json:"deployment"`
	Proxy       string    `json:"proxy"`
	Integration string    `json:"integration"`
	User        string    `json:"user"`
	Grant       string    `json:"grant"`
	Until       time.Time `json:"until"`
	Made        time.Time `json:"made,omitzero"` // when the role was made, by the gate's clock

	// Roles are existing ones that the role is a member of and that owned nothing when it was made. What they own when
	// it is settled, a member has made them own.
	Roles []string `json:"roles,omitempty"`

	// Rights is the fingerprint of the grant's access: under another one the role is not the grant's any more.
	Rights string `json:"rights,omitempty"`
	// Keep is the role that gets what this one owns at the end, as far as it runs no code.
	Keep string `json:"keep,omitempty"`
	// ActAs is the role as which sessions work.
	ActAs string `json:"act_as,omitempty"`
}

// Asleep reports whether no proxy answers for the role: the one that did has stopped, and left it to whoever comes next.
func (e Entry) Asleep() bool { return e.Proxy == "" }

// ObjectsEntry is the ledger's line for a profile of named objects.
type ObjectsEntry struct {
	Version    int    `json:"hourgate_objects"`
	Deployment string `json:"deployment"`
	Database   string `json:"database"`
}

// Comment is the entry as the profile's COMMENT has it.
func (e ObjectsEntry) Comment() string {
	b, err := json.Marshal(e)
	if err != nil {
		panic("ledger: an entry that can't be encoded: " + err.Error()) // strings; can't happen
	}
	return string(b)
}

// Version of the entries that this program writes.
const Version = 1

// Comment is the entry as the role's COMMENT has it.
func (e Entry) Comment() string {
	e.Version = Version
	b, err := json.Marshal(e)
	if err != nil {
		panic("ledger: an entry that can't be encoded: " + err.Error()) // strings and a time; can't happen
	}
	return string(b)
}

// Parse reports whether a comment is a ledger entry of a version that this program knows.
func Parse(comment string) (Entry, bool) {
	var e Entry
	if err := json.Unmarshal([]byte(comment), &e); err != nil {
		return Entry{}, false
	}
	return e, e.Version == Version
}

// Role is an ephemeral role on the server.
type Role struct {
	Name  string
	OID   uint32
	Entry Entry
}

// String names the role in messages.
func (r Role) String() string { return fmt.Sprintf("%s (OID %d)", r.Name, r.OID) }

// Record starts a trail record about the role. fill may be nil.
func (r Role) Record(event audit.Event, integration string, fill func(*audit.Record)) audit.Record {
	rec := audit.Record{
		Event: event, Gate: audit.Gate{Deployment: r.Entry.Deployment, Proxy: r.Entry.Proxy},
		Subject: audit.Subject{User: r.Entry.User, Integration: integration},
		Right:   audit.Right{Grant: r.Entry.Grant}, Means: audit.Means{Role: r.Name, RoleOID: r.OID},
	}
	if fill != nil {
		fill(&rec)
	}
	return rec
}
