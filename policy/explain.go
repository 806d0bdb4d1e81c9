package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxOffers bounds a hint: it is read in a terminal.
const maxOffers = 5

// denied explains why no live grant matches r. matches reports whether a grant would cover r if it were live, and
// which database it would be.
func (s *Set) denied(r Request, now time.Time, matches func(*Grant) (database string, ok bool)) Decision {
	if d, ok := s.stopped(r, now, matches); ok {
		return d
	}
	d := Decision{
		Reason:  NoGrant,
		Message: fmt.Sprintf("no live grant for %q", shorten(r.Database)),
		Hint:    s.offers(r.User, now),
	}
	if ask := s.howToAsk(r); ask != "" {
		d.Hint = ask
		if len(s.usable(r.User, now)) > 0 {
			d.Hint += ". " + s.offers(r.User, now)
		}
	}
	past, next := s.around(r.User, now, matches)
	switch {
	case next != nil:
		d.Reason, d.Detail = NotYet, fmt.Sprintf("%s starts at %s.", describe(next, matches), clock(next.From))
	case past != nil:
		d.Reason, d.Detail = Expired, fmt.Sprintf("%s ended at %s.", describe(past, matches), clock(past.Until))
	case r.Database == "":
		d.Reason, d.Message = NoDatabase, "the connection names no database"
	case r.Database == r.User:
		d.Reason = NoDatabase
		d.Detail = "The database name is the user name, which clients send when none is given."
	}
	return d
}

// around returns the matching grants that ended last and that start next, of those that are not live.
func (s *Set) around(user string, now time.Time, matches func(*Grant) (string, bool)) (past, next *Grant) {
	for g := range s.grantsOf(user) {
		if _, ok := matches(g); !ok {
			continue
		}
		switch {
		case now.Before(g.From) && (next == nil || g.From.Before(next.From)):
			next = g
		case !now.Before(g.Until) && (past == nil || g.Until.After(past.Until)):
			past = g
		}
	}
	return past, next
}

func describe(g *Grant, matches func(*Grant) (string, bool)) string {
	database, _ := matches(g)
	return fmt.Sprintf("Grant %s on %s (database %s)", g.Name, g.Integration, database)
}

// ambiguous asks which of several databases of one name is meant.
func (s *Set) ambiguous(r Request, now time.Time) Decision {
	var names []string
	for p := range s.usable(r.User, now) {
		if p.database == r.Database {
			names = append(names, p.database+"@"+p.integration)
		}
	}
	slices.Sort(names)
	return Decision{
		Reason:  Ambiguous,
		Message: fmt.Sprintf("your grants cover more than one database %q", shorten(r.Database)),
		Hint:    fmt.Sprintf("Name the integration too, and connect to one of: %s.", enumerate(names)),
	}
}

// offers lists what user may connect to now.
func (s *Set) offers(user string, now time.Time) string {
	usable := s.usable(user, now)
	if len(usable) == 0 {
		return "You have no live grant. Ask for one: Hourgate gives access for a limited time only."
	}
	var offers []string
	for p, g := range usable {
		offers = append(offers, fmt.Sprintf("%s (until %s)", s.short(user, p, now), clock(g.Until)))
	}
	slices.Sort(offers)
	return fmt.Sprintf("You may connect to: %s.", enumerate(offers))
}

// short is the shortest name of a place for this person that every client can carry, which a slash is not in a URL of JDBC:
// the integration, or the database alone where that means the same place, or both.
func (s *Set) short(user string, p pair, now time.Time) string {
	names := []string{p.database, p.database + "@" + p.integration}
	if p.database == s.defaults[p.integration] {
		names = []string{p.integration, p.database, p.database + "@" + p.integration}
	}
	for _, name := range names {
		if meant, _, _ := s.place(Request{User: user, Database: name}, now); meant == p {
			return name
		}
	}
	return p.integration + "/" + p.database
}

// usable returns what user may connect to now, with the grant that counts for each.
func (s *Set) usable(user string, now time.Time) map[pair]*Grant {
	usable := map[pair]*Grant{}
	for g := range s.grantsOf(user) {
		if !s.admits(g, now) {
			continue
		}
		for _, database := range g.Databases {
			p := pair{g.Integration, database}
			if other := usable[p]; other == nil || better(g, other) < 0 {
				usable[p] = g
			}
		}
	}
	return usable
}

// enumerate joins the first few of words and counts the rest.
func enumerate(words []string) string {
	if rest := len(words) - maxOffers; rest > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:maxOffers], ", "), rest)
	}
	return strings.Join(words, ", ")
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
