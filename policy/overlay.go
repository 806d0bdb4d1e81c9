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
	integration, database, slash := strings.Cut(r.Database, "/")
	for _, f := range s.FlowsOf(r.User) {
		if !s.Includes(f.Requestors, r.User) {
			continue
		}
		for _, t := range f.Targets {
			for _, name := range t.Integrations {
				covered := s.databasesOf(t, name)
				target := ""
				switch {
				case slash && name == integration && slices.Contains(covered, database):
					target = name + "/" + database
				case !slash && name == r.Database:
					target = name
				case !slash && slices.Contains(covered, r.Database):
					target = name + "/" + r.Database
				}
				if target != "" {
					return fmt.Sprintf(`Flow %s lets you ask: connect to database "hourgate" and type REQUEST %s ON %s FOR '%s' REASON '…'; or run: hourgate request %s --access %s --reason '…'`,
						f.Name, QuoteWord(t.Access[0].String()), QuoteWord(target), inWords(f.defaultDuration()), quoteShell(target), quoteShell(t.Access[0].String()))
				}
			}
		}
	}
	return ""
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
	Integration, Database, Access string
	For, Longest                  time.Duration
	BreakGlass                    bool
}

// Offers returns what user can ask for under a flow.
func (s *Set) Offers(f *Flow, user string) []Offer {
	var offers []Offer
	add := func(longest time.Duration, breakGlass bool) {
		for _, t := range f.Targets {
			for _, integration := range t.Integrations {
				for _, database := range s.databasesOf(t, integration) {
					for _, a := range t.Access {
						offers = append(offers, Offer{integration, database, a.String(), min(f.defaultDuration(), longest), longest, breakGlass})
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
