package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A Wish is what a person asks for.
type Wish struct {
	User        string
	Flow        string // empty: the first that fits
	Integration string
	Databases   []string      // none: the integration's own, or the only one that can be asked for
	Access      string        // as Access.String has it
	For         time.Duration // 0: the flow's default
	Reason      string
	BreakGlass  bool
	At          time.Time
}

// A Plan is what a wish comes to under a flow.
type Plan struct {
	Flow        *Flow
	Integration string
	Databases   []string
	Access      Access
	For         time.Duration
	AtOnce      string   // why nobody decides; empty when somebody does
	Deciders    []string // who can
}

// An Objection says why something may not be, to a person who may know it.
type Objection struct{ Message, Detail, Hint string }

func (o *Objection) Error() string { return o.Message }

func objection(format string, args ...any) *Objection {
	return &Objection{Message: fmt.Sprintf(format, args...)}
}

// Flow returns the flow of that name, or nil.
func (s *Set) Flow(name string) *Flow { return s.flows[name] }

// FlowNames returns the names of all flows, sorted.
func (s *Set) FlowNames() []string { return slices.Sorted(maps.Keys(s.flows)) }

// FlowsOf returns the flows under which user may ask, by name.
func (s *Set) FlowsOf(user string) []*Flow {
	var flows []*Flow
	for _, name := range s.FlowNames() {
		if f := s.flows[name]; s.Includes(f.Requestors, user) || f.BreakGlass != nil && s.Includes(f.BreakGlass.people(), user) {
			flows = append(flows, f)
		}
	}
	return flows
}

// Plan finds the flow for a wish: of those that fit the one that needs no decision now, then the first by name. The error
// is an *Objection. It tells of flows under which the person may ask, and of nothing else.
func (s *Set) Plan(w Wish) (Plan, error) {
	var best *Plan
	var why *Objection
	fits := false // a flow has the target; its objection says more than that of one that has not
	for _, f := range s.FlowsOf(w.User) {
		if w.Flow != "" && w.Flow != f.Name {
			continue
		}
		p, hit, o := s.plan(f, w)
		switch {
		case o != nil && (why == nil || hit && !fits):
			why, fits = o, hit
		case o == nil && (best == nil || best.AtOnce == "" && p.AtOnce != ""):
			best = &p
		}
	}
	switch {
	case best != nil:
		return *best, nil
	case fits:
		return Plan{}, why
	}
	o := objection("no access flow lets you ask for %s on %s", shorten(w.Access), shorten(place(w.Integration, w.Databases)))
	if w.Flow != "" {
		o.Message += fmt.Sprintf(" under %q", shorten(w.Flow))
	}
	if w.BreakGlass {
		o.Message += " by breaking the glass"
	}
	o.Hint = "SHOW ACCESS lists what you could ask for."
	return Plan{}, o
}

// plan tries one flow. hit says that the flow has what is wished for.
func (s *Set) plan(f *Flow, w Wish) (p Plan, hit bool, o *Objection) {
	if !s.mayAsk(f, w.User, w.BreakGlass) {
		return p, false, objection("flow %s is not for you", f.Name)
	}
	p = Plan{Flow: f, Integration: w.Integration, For: cmp.Or(w.For, f.defaultDuration())}
	var ok bool
	if p.Databases, p.Access, ok = s.target(f, w); !ok {
		return p, false, objection("flow %s has no such target", f.Name)
	}
	longest := f.MaxDuration
	if w.BreakGlass {
		longest = f.BreakGlass.MaxDuration
		if w.For == 0 {
			p.For = min(p.For, longest)
		}
	}
	switch {
	case p.For <= 0:
		return p, true, objection("access for no time is no access")
	case p.For > longest:
		return p, true, &Objection{
			Message: fmt.Sprintf("flow %s gives access for %s at most", f.Name, inWords(longest)),
			Hint:    fmt.Sprintf("Ask FOR '%s', and extend it if you need more.", inWords(longest)),
		}
	}
	if o := f.Justification.check(w.Reason, w.BreakGlass); o != nil {
		return p, true, o
	}
	if w.BreakGlass {
		p.AtOnce = "break-glass"
		return p, true, nil
	}
	p.AtOnce = s.atOnce(f, w.User, p.Access, w.At)
	if p.AtOnce == "" {
		p.Deciders = s.Deciders(f.Name, w.User)
		if !f.Approval.enough(s.member, p.Deciders) {
			return p, true, objection("nobody but you could decide this request under flow %s", f.Name)
		}
	} else if !f.open(w.At) {
		return p, true, f.closed()
	}
	return p, true, nil
}

func (s *Set) mayAsk(f *Flow, user string, breakGlass bool) bool {
	if breakGlass {
		return f.BreakGlass != nil && s.Includes(f.BreakGlass.people(), user)
	}
	return s.Includes(f.Requestors, user)
}

// target finds what is wished for among a flow's targets.
func (s *Set) target(f *Flow, w Wish) (databases []string, access Access, ok bool) {
	for _, t := range f.Targets {
		if !slices.Contains(t.Integrations, w.Integration) {
			continue
		}
		i := slices.IndexFunc(t.Access, func(a Access) bool { return a.String() == w.Access })
		if i < 0 {
			continue
		}
		covered := s.databasesOf(t, w.Integration)
		databases = w.Databases
		if len(databases) == 0 {
			databases = []string{s.defaults[w.Integration]}
			if len(covered) == 1 {
				databases = covered
			}
		}
		if !slices.ContainsFunc(databases, func(d string) bool { return !slices.Contains(covered, d) }) {
			return databases, t.Access[i], true
		}
	}
	return nil, Access{}, false
}

func (s *Set) databasesOf(t Target, integration string) []string {
	if len(t.Databases) > 0 {
		return t.Databases
	}
	return []string{s.defaults[integration]}
}

// atOnce says why nobody needs to decide about a request of user now, or "".
func (s *Set) atOnce(f *Flow, user string, access Access, now time.Time) string {
	if f.atOnce() {
		return "flow " + f.Name + " needs no approval"
	}
	for i, rule := range f.AutoApprove {
		who := People{Users: rule.Users, Groups: rule.Groups}
		switch {
		case rule.When != nil && !rule.When.Contains(now):
		case !who.empty() && !s.Includes(who, user):
		case len(rule.Access) > 0 && !slices.ContainsFunc(rule.Access, access.Equal):
		default:
			return fmt.Sprintf("auto_approve[%d] of flow %s", i, f.Name)
		}
	}
	return ""
}

// check says what is wrong with a reason.
func (j Justification) check(reason string, breakGlass bool) *Objection {
	hint := j.Hint
	if hint != "" {
		hint = "Expected is " + strings.TrimSuffix(hint, ".") + "."
	}
	switch {
	case reason == "" && !j.Required && !breakGlass:
		return nil
	case reason == "":
		return &Objection{Message: "this request needs a reason", Hint: cmp.Or(hint, "Add REASON '…'.")}
	case utf8.RuneCountInString(reason) < j.MinLength:
		return &Objection{Message: fmt.Sprintf("the reason is too short: at least %d characters are required", j.MinLength), Hint: hint}
	case j.Pattern.Regexp != nil && !breakGlass && !j.Pattern.MatchString(reason): // there may be no ticket yet in an emergency
		return &Objection{Message: fmt.Sprintf("the reason must match %s", j.Pattern), Hint: hint}
	}
	return nil
}

func (f *Flow) open(now time.Time) bool { return f.Timeframe == nil || f.Timeframe.Contains(now) }

func (f *Flow) closed() *Objection {
	return objection("flow %s gives access only within its timeframe: %s", f.Name, f.Timeframe)
}

// place is how a person names databases.
func place(integration string, databases []string) string {
	if len(databases) == 0 {
		return integration
	}
	places := make([]string, len(databases))
	for i, d := range databases {
		places[i] = integration + "/" + d
	}
	return strings.Join(places, ", ")
}

// inWords is a duration as it can be written after FOR.
func inWords(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := d / unit.length; n > 0 && d%unit.length == 0 && (unit.name != "day" || n > 1) {
			if n > 1 {
				unit.name += "s"
			}
			return fmt.Sprintf("%d %s", n, unit.name)
		}
	}
	return d.String()
}
