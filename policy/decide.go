package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Request is what an authenticated person asks for.
type Request struct {
	User     string // proved by authentication
	Database string // as the client sent it in its startup packet; empty if it sent none
}

// A Decision is the answer to a request.
type Decision struct {
	Grant       *Grant // the grant that covers the request; nil when it is denied
	Integration string // to connect to; empty when denied
	Database    string // the database's own name on the integration; empty when denied
	Reader      bool   // on one of the integration's readers, and not on its writer

	Reason                Reason // why the request is denied; empty when it is not
	Message, Detail, Hint string // for the person: the fields of an ErrorResponse. Detail and Hint may be empty
}

// A Reason is why a request is denied, from a closed set.
type Reason string

// The reasons.
const (
	NoGrant    Reason = "no_grant"    // no grant for that name, whether the name exists or not
	Expired    Reason = "expired"     // the grant has ended
	NotYet     Reason = "not_yet"     // the grant has not started
	Ambiguous  Reason = "ambiguous"   // a bare database name that several integrations have
	NoDatabase Reason = "no_database" // the client did not say what it wants

	Locked      Reason = "locked"      // a lock stops the person, the grant, the integration or everything
	Unconfirmed Reason = "unconfirmed" // the grant comes from a request, and the state of requests can't be reached
)

// Decide returns the grant under which the request may go ahead at now, or the denial.
//
// A database is named as integration (for its default database), as integration/database or database@integration, which
// URLs of JDBC can carry (of an integration in one of the person's grants), or by its name alone when the person's live
// grants cover it on one integration only. An integration in any of the person's grants, ended ones too, goes before a
// database of that name: when a grant on it ends, a script must not find itself elsewhere. An integration that a tag calls so
// comes after all of these, live or not, unless the policy trusts the tag.
//
// Of several grants for one database one counts, they are never added up: the one that allows most (ADMIN, READ_WRITE,
// READ_ONLY, named roles, named objects), then the one that ends last, then the first by name.
//
// Where an integration has readers, integration/ro and integration/ro/database are its databases there, under the same
// grants.
//
// The person must be authenticated: the texts tell about their grants.
func (s *Set) Decide(r Request, now time.Time) Decision {
	on, reader := s.onReader(r)
	d := s.decide(on, now)
	d.Reader = reader && d.Grant != nil
	if reader && d.Reason == NoGrant {
		d.Message = fmt.Sprintf("no live grant for %q", shorten(r.Database))
	}
	return d
}

// ReaderSuffix stands behind an integration's name, after a slash, for its readers.
const ReaderSuffix = "ro"

// onReader returns what r asks for on a reader in the words for the writer. Only for who has a grant on the integration does
// it say that there are readers.
func (s *Set) onReader(r Request) (on Request, reader bool) {
	integration, rest, _ := strings.Cut(r.Database, "/")
	first, database, named := strings.Cut(rest, "/")
	if first != ReaderSuffix || !s.readers[integration] {
		return r, false
	}
	if !named {
		database = s.defaults[integration]
	}
	for g := range s.grantsOf(r.User) {
		if g.Integration == integration {
			return Request{User: r.User, Database: integration + "/" + database}, true
		}
	}
	return r, false
}

func (s *Set) decide(r Request, now time.Time) Decision {
	if l, locked := s.Locked(r.User, "", "", now); locked {
		return deniedByLock(l)
	}
	wanted, known, several := s.place(r, now)
	if several {
		return s.ambiguous(r, now)
	}
	if g := s.best(r.User, wanted, now); g != nil {
		if l, locked := s.Locked("", "", g.Integration, now); locked {
			return deniedByLock(l)
		}
		return Decision{Grant: g, Integration: wanted.integration, Database: wanted.database}
	}
	if known {
		return s.denied(r, now, func(g *Grant) (string, bool) { return wanted.database, g.covers(wanted) })
	}
	return s.denied(r, now, func(g *Grant) (string, bool) { return r.Database, slices.Contains(g.Databases, r.Database) })
}

// place returns what r means, whether or not a grant for it is live. known says that it names an integration.
func (s *Set) place(r Request, now time.Time) (wanted pair, known, several bool) {
	if wanted, known = s.named(r); known {
		return wanted, true, false
	}
	if wanted, several = s.bare(r, now); several || wanted != (pair{}) {
		return wanted, false, several
	}
	for g := range s.grantsOf(r.User) {
		if slices.Contains(g.Databases, r.Database) {
			return pair{}, false, false
		}
	}
	wanted, known = s.called(r.User, r.Database, true)
	return wanted, known, false
}

// named returns what r names by integration, if it does.
func (s *Set) named(r Request) (wanted pair, ok bool) {
	if integration, database, ok := strings.Cut(r.Database, "/"); ok {
		return pair{integration, database}, true
	}
	if wanted, ok := s.called(r.User, r.Database, false); ok {
		return wanted, true
	}
	if at := strings.LastIndexByte(r.Database, '@'); at >= 0 {
		for g := range s.grantsOf(r.User) {
			if g.Integration == r.Database[at+1:] {
				return pair{g.Integration, r.Database[:at]}, true
			}
		}
	}
	return pair{}, false
}

// called returns the default database of the integration of that name in the person's grants, if there is one: of those whose
// names an untrusted tag says, or of the others.
func (s *Set) called(user, name string, claimed bool) (wanted pair, ok bool) {
	for g := range s.grantsOf(user) {
		if g.Integration == name && s.claimed[name] == claimed {
			return pair{name, s.defaults[name]}, true
		}
	}
	return pair{}, false
}

// bare returns the one place where the person may use a database of that name now, and whether there are several.
func (s *Set) bare(r Request, now time.Time) (wanted pair, several bool) {
	for g := range s.grantsOf(r.User) {
		if !s.admits(g, now) || !slices.Contains(g.Databases, r.Database) {
			continue
		}
		found := pair{g.Integration, r.Database}
		if wanted != (pair{}) && wanted != found {
			return pair{}, true
		}
		wanted = found
	}
	return wanted, false
}

// best returns the live grant that counts for user on p, or nil.
func (s *Set) best(user string, p pair, now time.Time) *Grant {
	var best *Grant
	for g := range s.grantsOf(user) {
		if s.admits(g, now) && g.covers(p) && (best == nil || better(g, best) < 0) {
			best = g
		}
	}
	return best
}

// better orders grants by which of them counts.
func better(a, b *Grant) int {
	return cmp.Or(
		cmp.Compare(b.Access.rank(), a.Access.rank()),
		b.Until.Compare(a.Until),
		strings.Compare(a.Name, b.Name),
	)
}
