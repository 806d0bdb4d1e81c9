package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// An Overlay is what is in force besides users and grants.
type Overlay struct {
	Locks []Lock
	// Unconfirmed keeps grants that come from requests from taking new sessions: whether they still stand can't be known at
	// the moment. Sessions that live go on to their end.
	Unconfirmed bool
	// Asking says that there is somebody to ask: denials name the flow and the command.
	Asking bool
}

// With returns the set with an overlay, in place of the one that it has.
func (s *Set) With(o Overlay) *Set {
	with := *s
	with.overlay = o
	with.overlay.Locks = slices.Clone(o.Locks)
	return &with
}

// admits reports whether a grant takes new sessions now, locks on its users and integration aside.
func (s *Set) admits(g *Grant, now time.Time) bool {
	return g.Live(now) && !s.unconfirmed(g) && !slices.ContainsFunc(s.overlay.Locks, func(l Lock) bool {
		return l.Kind == LockGrant && l.Name == g.Name && l.live(now)
	})
}

func (s *Set) unconfirmed(g *Grant) bool {
	return s.overlay.Unconfirmed && requestGrant.MatchString(g.Name)
}

// Has reports whether there is something of a name that a lock of this kind could stop.
func (s *Set) Has(kind LockKind, name string) bool {
	var there bool
	switch kind {
	case LockUser:
		there = s.users[name] != nil
	case LockGrant:
		there = s.grants[name] != nil
	case LockIntegration:
		_, there = s.defaults[name]
	case LockAll:
		there = name == ""
	}
	return there
}

// Grants returns the grants of user, live or not, by name.
func (s *Set) Grants(user string) []*Grant {
	grants := slices.SortedFunc(s.grantsOf(user), func(a, b *Grant) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(grants)
}

// stopped explains a denial that is due to the overlay: to a lock, or because requests can't be confirmed. It is false
// for any other.
func (s *Set) stopped(r Request, now time.Time, matches func(*Grant) (string, bool)) (Decision, bool) {
	for g := range s.grantsOf(r.User) {
		if _, ok := matches(g); !ok || !g.Live(now) {
			continue
		}
		if l, locked := s.Locked(r.User, g.Name, g.Integration, now); locked {
			return deniedByLock(l), true
		}
		if s.unconfirmed(g) {
			return Decision{
				Reason: Unconfirmed, Message: fmt.Sprintf("your grant %s can't be confirmed now", g.Name),
				Hint: "The gate does not reach the state of requests. Try again in a moment; if it goes on, tell its operators.",
			}, true
		}
	}
	return Decision{}, false
}

func deniedByLock(l Lock) Decision {
	d := Decision{Reason: Locked, Message: fmt.Sprintf("%s is locked", l), Detail: l.Reason, Hint: "Ask the operators of this gate."}
	if !l.Until.IsZero() {
		d.Hint = fmt.Sprintf("The lock ends at %s.", clock(l.Until))
	}
	return d
}

// howToAsk tells what the person could ask for where they were denied, or "".
func (s *Set) howToAsk(r Request) string {
	if !s.overlay.Asking {
		return ""
	}
	asked := s.Asked(r.User, r.Database)
	if len(asked.Offers) == 0 {
		return ""
	}
	o := asked.Offers[0]
	target := asked.Target
	if target == "" {
		target = o.Integration + "/" + o.Database
	}
	return fmt.Sprintf(`Flow %s lets you ask: connect to database "hourgate" and type REQUEST %s ON %s FOR '%s' REASON '…'; or run: hourgate request %s --access %s --reason '…'`,
		o.Flow, QuoteWord(o.Access), QuoteWord(target), inWords(o.For), quoteShell(target), quoteShell(o.Access))
}

// Asked is what a person can ask for where they have named a database as clients do when they connect.
type Asked struct {
	// Target is what they named, as REQUEST takes it: an integration, or an integration and a database. It is empty where the name is
	// a database's that they can ask for on several integrations.
	Target string
	Offers []Offer // without those by break-glass
}

// Asked finds what user means by a name: integration, integration/database or database@integration, also with the readers' suffix, or
// a database by its name alone. An integration goes before a database of that name, as in [Set.Decide].
func (s *Set) Asked(user, named string) Asked {
	var all []Offer
	for _, f := range s.FlowsOf(user) {
		for _, o := range s.Offers(f, user) {
			if !o.BreakGlass {
				all = append(all, o)
			}
		}
	}
	for _, p := range s.pairs(named) {
		offers := slices.DeleteFunc(slices.Clone(all), func(o Offer) bool {
			return o.Integration != p.integration || p.database != "" && o.Database != p.database
		})
		if len(offers) > 0 {
			return Asked{strings.TrimSuffix(p.integration+"/"+p.database, "/"), offers}
		}
	}
	found := Asked{Offers: slices.DeleteFunc(all, func(o Offer) bool { return o.Database != named })}
	for i, o := range found.Offers {
		if i > 0 && o.Integration != found.Offers[0].Integration {
			found.Target = ""
			break
		}
		found.Target = o.Integration + "/" + o.Database
	}
	return found
}

// pairs are what a name with an integration in it can mean, in the order in which they count.
func (s *Set) pairs(named string) []pair {
	pairs := []pair{{integration: named}}
	if integration, database, ok := strings.Cut(named, "/"); ok {
		if first, rest, _ := strings.Cut(database, "/"); first == ReaderSuffix && s.readers[integration] {
			database = rest
		}
		pairs = append(pairs, pair{integration, database})
	}
	if at := strings.LastIndexByte(named, '@'); at > 0 {
		pairs = append(pairs, pair{named[at+1:], named[:at]})
	}
	return pairs
}

// QuoteWord writes a word so that a statement of database hourgate takes it for one.
func QuoteWord(word string) string {
	if plain(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", "''") + "'"
}

// quoteShell writes a word so that a shell takes it for one.
func quoteShell(word string) string {
	if plain(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func plain(word string) bool {
	return word != "" && !strings.ContainsFunc(word, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-./@", r)
	})
}

// Asking reports whether there is somebody to ask.
func (s *Set) Asking() bool { return s.overlay.Asking }

// An Offer is something that can be asked for.
type Offer struct {
	Flow, Integration, Database, Access string
	For, Longest                        time.Duration
	BreakGlass                          bool
}

// Offers returns what user can ask for under a flow.
func (s *Set) Offers(f *Flow, user string) []Offer {
	var offers []Offer
	add := func(longest time.Duration, breakGlass bool) {
		for _, t := range f.Targets {
			for _, integration := range t.Integrations {
				for _, database := range s.databasesOf(t, integration) {
					for _, a := range t.Access {
						offers = append(offers, Offer{f.Name, integration, database, a.String(), min(f.defaultDuration(), longest), longest, breakGlass})
					}
				}
			}
		}
	}
	if s.Includes(f.Requestors, user) {
		add(f.MaxDuration, false)
	}
	if f.BreakGlass != nil && s.Includes(f.BreakGlass.people(), user) {
		add(f.BreakGlass.MaxDuration, true)
	}
	return offers
}

// ExtendCommand is what the holder of a grant types to have it extended, or "" if that can't be.
func (g *Grant) ExtendCommand() string {
	if g.Extendable == 0 {
		return ""
	}
	return fmt.Sprintf("EXTEND %s FOR '%s'; in database hourgate", strings.TrimPrefix(g.Name, "request-"), inWords(min(g.Extendable, time.Hour)))
}
