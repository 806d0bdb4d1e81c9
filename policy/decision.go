package policy

import (
	"slices"
	"strconv"
	"time"
)

// GrantName is the name of the grant that a request became.
func GrantName(request int64) string { return "request-" + strconv.FormatInt(request, 10) }

// Granted is what a decision gave to a person under a flow.
type Granted struct {
	Request     int64
	User        string
	Flow        string
	Integration string
	Databases   []string
	Access      string          // as Access.String has it: the flow in force says what it is
	Approved    time.Time       // when; the clock starts here
	Extensions  []time.Duration // that were approved
	Until       time.Time
	Reason      string
	BreakGlass  bool
}

// Deciders returns who may decide a request of user under a flow: never the person who asks.
func (s *Set) Deciders(flow, user string) []string {
	f := s.flows[flow]
	if f == nil || f.atOnce() {
		return nil
	}
	return s.without(user, f.Approval.sets())
}

// Reviewers returns who may review a use of break-glass by user: those whom the flow names or, where it is gone or names nobody
// who is left, the operators. A review that nobody could give would keep the person from breaking the glass for ever.
func (s *Set) Reviewers(flow, user string) []string {
	if f := s.flows[flow]; f != nil && f.BreakGlass != nil {
		if named := s.without(user, f.BreakGlass.ReviewBy); len(named) > 0 {
			return named
		}
	}
	return s.without(user, []People{s.operators})
}

func (s *Set) without(user string, sets []People) []string {
	var people []string
	for _, p := range sets {
		people = append(people, s.People(p)...)
	}
	slices.Sort(people)
	return slices.DeleteFunc(slices.Compact(people), func(p string) bool { return p == user })
}

// MayDecide says why person may not approve or deny a request of g.User, or nil.
func (s *Set) MayDecide(person string, g Granted) *Objection {
	switch {
	case person == g.User:
		return objection("nobody decides their own request")
	case !slices.Contains(s.Deciders(g.Flow, g.User), person):
		return objection("you are not among those who decide under flow %s", g.Flow)
	}
	return nil
}

// MayReview says why person may not review g.User's use of break-glass, or nil.
func (s *Set) MayReview(person string, g Granted) *Objection {
	switch {
	case person == g.User:
		return objection("nobody reviews their own use of break-glass")
	case !slices.Contains(s.Reviewers(g.Flow, g.User), person):
		return objection("you are not among those who review break-glass under flow %s", g.Flow)
	}
	return nil
}

// MayGrant says why a request may not become access now, whoever has approved it, or nil. approvers are the people who
// have; those who may not decide any more do not count. enough is false while more approvals are missing.
func (s *Set) MayGrant(g Granted, approvers []string, now time.Time) (enough bool, o *Objection) {
	access, o := s.mayHave(g)
	if o != nil {
		return false, o
	}
	f := s.flows[g.Flow]
	switch {
	case !f.open(now):
		return false, f.closed()
	case s.atOnce(f, g.User, access, now) != "":
		return true, nil
	}
	allowed := s.Deciders(g.Flow, g.User)
	counted := slices.DeleteFunc(slices.Clone(approvers), func(p string) bool { return !slices.Contains(allowed, p) })
	return f.Approval.enough(s.member, counted), nil
}

// AtOnce says why a request needs no decision now, or "".
func (s *Set) AtOnce(g Granted, now time.Time) string {
	access, o := s.mayHave(g)
	if o != nil {
		return ""
	}
	return s.atOnce(s.flows[g.Flow], g.User, access, now)
}

// MayExtend says why g may not be extended by d, or nil. free reports whether nobody needs to decide about it.
func (s *Set) MayExtend(g Granted, d time.Duration, now time.Time) (free bool, o *Objection) {
	access, o := s.mayHave(g)
	if o != nil {
		return false, o
	}
	f := s.flows[g.Flow]
	rules := f.Extensions
	switch {
	case g.BreakGlass:
		return false, objection("access by break-glass is not extended")
	case rules == nil:
		return false, objection("flow %s knows no extensions", f.Name)
	case len(g.Extensions) >= rules.Max:
		return false, objection("the extensions that flow %s allows (%d) have been used", f.Name, rules.Max)
	case d <= 0:
		return false, objection("an extension by no time is none")
	case d > f.longestExtension():
		return false, &Objection{
			Message: "flow " + f.Name + " extends by " + inWords(f.longestExtension()) + " at most",
			Hint:    "Ask FOR '" + inWords(f.longestExtension()) + "'.",
		}
	case !f.open(now):
		return false, f.closed()
	}
	return rules.Approval == NoApproval || s.atOnce(f, g.User, access, now) != "", nil
}

func (f *Flow) longestExtension() time.Duration {
	if f.Extensions == nil {
		return 0
	}
	if f.Extensions.Duration > 0 {
		return f.Extensions.Duration
	}
	return f.MaxDuration
}

// MayNarrow says why an approver may not give to instead of what was asked for, or nil. Only a lower level is less for
// certain.
func (s *Set) MayNarrow(g Granted, to string) *Objection {
	from, asked := slices.Index(levels, Level(g.Access)), g.Access
	if to == asked {
		return nil
	}
	i := slices.Index(levels, Level(to))
	g.Access = to
	if _, o := s.mayHave(g); o != nil {
		return objection("flow %s does not give %s there", g.Flow, shorten(to))
	}
	if i < 0 || i > from {
		return objection("an approver may lower access, never widen it: %s was asked for", asked)
	}
	return nil
}

// Grant is what g means under the flows in force, which are its ceiling: an end that they allow, or the objection for
// which it has to end. The grant is like any other.
func (s *Set) Grant(g Granted) (*Grant, *Objection) {
	access, o := s.mayHave(g)
	if o != nil {
		return nil, o
	}
	f := s.flows[g.Flow]
	if !g.BreakGlass && !f.open(g.Approved) {
		return nil, f.closed()
	}
	until := f.latestEnd(g)
	if g.Until.Before(until) {
		until = g.Until
	}
	var extendable time.Duration
	if f.Extensions != nil && len(g.Extensions) < f.Extensions.Max && !g.BreakGlass {
		extendable = f.longestExtension()
	}
	return &Grant{
		Extendable: extendable,
		Name:       GrantName(g.Request), Users: []string{g.User}, Integration: g.Integration, Databases: g.Databases, Access: access,
		Until: until, Reason: g.Reason,
		MaxSessions: f.Settings.MaxSessions, StatementTimeout: f.Settings.StatementTimeout,
		IdleInTransaction: f.Settings.IdleInTransaction, LockTimeout: f.Settings.LockTimeout,
		KeepObjectsAs: f.Settings.KeepObjectsAs,
	}, nil
}

// latestEnd is the end that the flow allows to what was approved at g.Approved and extended since.
func (f *Flow) latestEnd(g Granted) time.Time {
	if g.BreakGlass {
		return g.Approved.Add(f.BreakGlass.MaxDuration)
	}
	end := g.Approved.Add(f.MaxDuration)
	for i, d := range g.Extensions {
		if f.Extensions != nil && i < f.Extensions.Max {
			end = end.Add(min(d, f.longestExtension()))
		}
	}
	return end
}

// mayHave is the access that the flows in force let the person have, or why they don't.
func (s *Set) mayHave(g Granted) (Access, *Objection) {
	f := s.flows[g.Flow]
	switch {
	case f == nil:
		return Access{}, objection("flow %s is not in force any more", g.Flow)
	case !s.mayAsk(f, g.User, g.BreakGlass):
		return Access{}, objection("flow %s is not for %s any more", f.Name, g.User)
	}
	_, access, ok := s.target(f, Wish{Integration: g.Integration, Databases: g.Databases, Access: g.Access})
	if !ok || len(g.Databases) == 0 {
		return Access{}, objection("flow %s does not give %s on %s any more", f.Name, g.Access, place(g.Integration, g.Databases))
	}
	return access, nil
}

// sets are the groups of deciders.
func (a *Approval) sets() []People {
	if len(a.AllOf) > 0 {
		return a.AllOf
	}
	return a.AnyOf
}

// enough reports whether these people's approvals are what it takes. Each person counts once: also with all_of, someone
// who is in two groups stands for one of them.
func (a *Approval) enough(m membership, approvers []string) bool {
	approvers = slices.Compact(slices.Sorted(slices.Values(approvers)))
	if len(a.AllOf) == 0 {
		n := 0
		for _, p := range approvers {
			if slices.ContainsFunc(a.AnyOf, func(set People) bool { return m.includes(set, p) }) {
				n++
			}
		}
		return n >= a.needed()
	}
	// Each place that has to be filled gets one person: Kuhn's algorithm for matchings.
	places := len(a.AllOf) * a.needed()
	holder := make(map[string]int) // person → place
	for place := range places {
		if !a.fill(m, approvers, holder, place, make(map[string]bool)) {
			return false
		}
	}
	return true
}

func (a *Approval) fill(m membership, approvers []string, holder map[string]int, place int, tried map[string]bool) bool {
	for _, p := range approvers {
		if tried[p] || !m.includes(a.AllOf[place/a.needed()], p) {
			continue
		}
		tried[p] = true
		other, taken := holder[p]
		if !taken || a.fill(m, approvers, holder, other, tried) {
			holder[p] = place
			return true
		}
	}
	return false
}
