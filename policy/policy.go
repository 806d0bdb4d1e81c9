// Package policy decides who may connect to what, until when. It reads policy files (users and grants), reports
// everything that is wrong with them, and answers requests with the grant that covers them or with an explanation.
//
// It is pure: only [Load] touches the file system, and every time is an argument. It enforces nothing: PostgreSQL's own
// privileges do.
//
// What holds:
//
//   - Access is denied unless a grant that is live gives it; every grant ends.
//   - A [Set] never changes once made, and may be used by any number of goroutines.
//   - What a person is told depends on their own grants alone, never on which integrations, databases, users or grants
//     exist besides.
package policy

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/verifier"
)

// A Level is how much a grant allows in its databases.
type Level string

// The levels, each of which allows what the one before it does and more.
const (
	ReadOnly  Level = "READ_ONLY"
	ReadWrite Level = "READ_WRITE"
	Admin     Level = "ADMIN"
)

// levels is in the order of what they allow.
var levels = []Level{ReadOnly, ReadWrite, Admin}

// LevelName is text in capitals if that is a level, and text otherwise: people type read_only too.
func LevelName(text string) string {
	if level := strings.ToUpper(text); slices.Contains(levels, Level(level)) {
		return level
	}
	return text
}

// UnmarshalText reads a level as it is written in policy files.
func (l *Level) UnmarshalText(text []byte) error {
	if !slices.Contains(levels, Level(text)) {
		return fmt.Errorf("want READ_ONLY, READ_WRITE or ADMIN, got %q", shorten(string(text)))
	}
	*l = Level(text)
	return nil
}

// A User is a person, or a machine, who connects.
type User struct {
	Name   string            `yaml:"name"`
	Groups []string          `yaml:"groups"`
	SCRAM  verifier.Verifier `yaml:"scram"` // zero for a user who has no password, only a client certificate
	// Certificate is a name in the client certificate that the user must show: a SAN (DNS name, e-mail address, URI) or
	// the subject's common name. Empty: none is needed, and none counts.
	Certificate string `yaml:"certificate"`
	// Disabled takes everything from the user: nobody logs in by that name, and no grant and no group counts.
	Disabled bool `yaml:"disabled"`

	Password mistakenPassword `yaml:"password,mistaken"`
}

// mistakenPassword is what some write in the place of a verifier.
type mistakenPassword struct{}

// UnmarshalText refuses every password, and keeps it out of the message.
func (mistakenPassword) UnmarshalText([]byte) error {
	return errors.New("passwords are not kept here: put what `hourgate passwd` prints into scram")
}

// A Grant gives users and members of groups access to databases of one integration, for a time.
type Grant struct {
	Name        string   `yaml:"name"`
	Users       []string `yaml:"users"`
	Groups      []string `yaml:"groups"`
	Integration string   `yaml:"integration"`
	// Labels choose the integrations instead, as they are when the policy is loaded. A loaded grant has none: there is one
	// for each integration, called name@integration.
	Labels    map[string]string `yaml:"labels"`
	Databases []string          `yaml:"databases"` // at least one, once loaded
	Access    Access            `yaml:"access"`
	From      time.Time         `yaml:"from"`  // the first moment of access; zero for always
	Until     time.Time         `yaml:"until"` // the first moment without access
	Reason    string            `yaml:"reason"`

	// Limits; zero sets none. A session can change the timeouts, so they are a courtesy. The number of sessions of one
	// person is held by Hourgate and by the server.
	MaxSessions       int           `yaml:"max_sessions"`
	StatementTimeout  time.Duration `yaml:"statement_timeout"`
	IdleInTransaction time.Duration `yaml:"idle_in_transaction_session_timeout"`
	LockTimeout       time.Duration `yaml:"lock_timeout"`

	// KeepObjectsAs is the role that gets what people made, when the grant ends, as far as it can run no code; "" keeps
	// nothing.
	KeepObjectsAs string `yaml:"keep_objects_as"`

	// Extendable is by how much the person can ask to have it extended; 0 for not at all. It comes from a flow, never from a
	// file's grant.
	Extendable time.Duration
}

// Live reports whether now is within the grant's time: From ≤ now < Until.
func (g *Grant) Live(now time.Time) bool { return !now.Before(g.From) && now.Before(g.Until) }

// SameRights reports whether g and o give the same access to the same integration, so that a session under one may go
// on under the other. Their users, databases and times may differ: [Set.Covers] decides these. So may their limits,
// which count for the sessions that begin after they changed.
func (g *Grant) SameRights(o *Grant) bool {
	return g.Integration == o.Integration && g.Access.Equal(o.Access)
}

// SameLimits reports whether g and o have the same limits, and do the same with what people made.
func (g *Grant) SameLimits(o *Grant) bool {
	return g.KeepObjectsAs == o.KeepObjectsAs && g.MaxSessions == o.MaxSessions && g.StatementTimeout == o.StatementTimeout &&
		g.IdleInTransaction == o.IdleInTransaction && g.LockTimeout == o.LockTimeout
}

func (g *Grant) covers(p pair) bool {
	return g.Integration == p.integration && slices.Contains(g.Databases, p.database)
}

// A pair is a database on an integration, which is what a client connects to.
type pair struct{ integration, database string }

// A Set is the users and grants of all policy files. It is immutable, and so are the users and grants that it hands
// out, for the caller too.
type Set struct {
	defaults map[string]string // integration → default database
	users    map[string]*User
	grants   map[string]*Grant
	byUser   map[string][]*Grant // by the names in Grant.Users
	byGroup  map[string][]*Grant // by the names in Grant.Groups

	member    membership
	operators People
	flows     map[string]*Flow
	notes     []string        // what means nothing now
	readers   map[string]bool // integrations that have readers
	claimed   map[string]bool // integrations whose names a tag says that is not trusted
	overlay   Overlay

	disabled map[string]bool     // users
	groups   []*Group            // that are declared
	origin   map[string]string   // the file of each user, grant, group and flow; see originOf
	warnings strictyaml.Problems // what is no mistake and probably not meant
}

// newSet indexes users and grants that were validated.
func newSet(c content, member membership, integrations map[string]string) *Set {
	s := &Set{
		defaults: maps.Clone(integrations),
		users:    make(map[string]*User, len(c.Users)),
		grants:   make(map[string]*Grant, len(c.Grants)),
		byUser:   map[string][]*Grant{},
		byGroup:  map[string][]*Grant{},
		member:   member,
		flows:    make(map[string]*Flow, len(c.Flows)),
		disabled: map[string]bool{},
		groups:   c.Groups,
	}
	if c.Operators != nil {
		s.operators = *c.Operators
	}
	for _, u := range c.Users {
		if u.Disabled {
			s.disabled[u.Name] = true
			continue
		}
		s.users[u.Name] = u
	}
	for _, f := range c.Flows {
		s.flows[f.Name] = f
	}
	for _, g := range c.Grants {
		s.add(g)
	}
	return s
}

// add indexes a grant. It leaves the lists alone that other sets may share.
func (s *Set) add(g *Grant) {
	s.grants[g.Name] = g
	for _, user := range g.Users {
		s.byUser[user] = append(slices.Clip(s.byUser[user]), g)
	}
	for _, group := range g.Groups {
		s.byGroup[group] = append(slices.Clip(s.byGroup[group]), g)
	}
}

// SameIdentity reports whether user is known in both sets and proves who they are in the same way: with the same verifier
// and the same certificate.
func (s *Set) SameIdentity(o *Set, user string) bool {
	a, b := s.users[user], o.users[user]
	return a != nil && b != nil && a.Certificate == b.Certificate && a.SCRAM.Equal(b.SCRAM)
}

// Verifier returns the verifier of user's password. It is false for an unknown user and for one without a password.
func (s *Set) Verifier(user string) (verifier.Verifier, bool) {
	u := s.users[user]
	if u == nil || u.SCRAM.IsZero() {
		return verifier.Verifier{}, false
	}
	return u.SCRAM, true
}

// Certificate returns the name that user's client certificate must have, or "" if the user needs none.
func (s *Set) Certificate(user string) string {
	if u := s.users[user]; u != nil {
		return u.Certificate
	}
	return ""
}

// Warnings are what is no mistake and yet probably not meant, each with its place.
func (s *Set) Warnings() strictyaml.Problems { return s.warnings }

// Disabled reports whether the files have the user, as one who gets nothing.
func (s *Set) Disabled(user string) bool { return s.disabled[user] }

// Size returns how many users and grants, live or not, the set has.
func (s *Set) Size() (users, grants int) { return len(s.users), len(s.grants) }

// Databases returns the databases on an integration that grants name, live or not, sorted.
func (s *Set) Databases(integration string) []string {
	var databases []string
	for _, g := range s.grants {
		if g.Integration == integration {
			databases = append(databases, g.Databases...)
		}
	}
	slices.Sort(databases)
	return slices.Compact(databases)
}

// Covers returns the grant of that name if it is live, covers user and database, and no lock stops it. It decides a session or a role
// anew after a reload; whether the rights are still the same is for [Grant.SameRights].
func (s *Set) Covers(user, grant, database string, now time.Time) (*Grant, bool) {
	g := s.grants[grant]
	if g == nil || !g.Live(now) || !slices.Contains(g.Databases, database) || !s.holds(user, g) {
		return nil, false
	}
	if _, locked := s.Locked(user, grant, g.Integration, now); locked {
		return nil, false
	}
	return g, true
}

func (s *Set) holds(user string, g *Grant) bool {
	for held := range s.grantsOf(user) {
		if held == g {
			return true
		}
	}
	return false
}

// grantsOf yields the grants of user, live or not; one that names the user more than once is yielded as often.
func (s *Set) grantsOf(user string) iter.Seq[*Grant] {
	return func(yield func(*Grant) bool) {
		if s.users[user] == nil {
			return
		}
		for _, g := range s.byUser[user] {
			if !yield(g) {
				return
			}
		}
		for _, group := range s.member[user] {
			for _, g := range s.byGroup[group] {
				if !yield(g) {
					return
				}
			}
		}
	}
}
