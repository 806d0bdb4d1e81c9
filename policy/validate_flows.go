package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// maxCount bounds the number of people who have to approve.
const maxCount = 20

// maxText is the length of the longest description and hint in bytes.
const maxText = 500

func (c *checker) checkOperators(f decoded) {
	if f.Operators == nil || !f.doc.Sound("operators") {
		return
	}
	if c.operators != "" {
		c.report(f.doc, "operators", "is already at %s", c.operators)
		return
	}
	c.operators = f.doc.Position("operators")
	c.checkPeople(f.doc, "operators", *f.Operators)
}

func (c *checker) checkFlows(f decoded) {
	for i, flow := range f.Flows {
		path := fmt.Sprintf("access_flows[%d]", i)
		if !f.doc.Sound(path) {
			continue
		}
		c.checkGrantName(f.doc, path+".name", flow.Name)
		c.checkUnique(f.doc, path+".name", "flow", flow.Name, c.flows)
		c.checkText(f.doc, path+".description", flow.Description)
		c.checkRequestors(f.doc, path+".requestors", flow)
		c.checkTargets(f.doc, path+".targets", flow)
		c.checkDurations(f.doc, path, flow)
		c.checkJustification(f.doc, path+".justification", flow.Justification)
		c.checkApproval(f.doc, path+".approval", flow)
		c.checkAutoApprove(f.doc, path+".auto_approve", flow)
		c.checkWindow(f.doc, path+".timeframe", flow.Timeframe)
		c.checkExtensions(f.doc, path+".extensions", flow)
		c.checkBreakGlass(f.doc, path+".break_glass", flow)
		c.checkLimits(f.doc, path+".settings", &Grant{
			MaxSessions: flow.Settings.MaxSessions, StatementTimeout: flow.Settings.StatementTimeout,
			IdleInTransaction: flow.Settings.IdleInTransaction, LockTimeout: flow.Settings.LockTimeout,
		})
		c.checkKeeper(f.doc, path+".settings.keep_objects_as", flow.Settings.KeepObjectsAs)
	}
}

// checkText checks what is shown to people.
func (c *checker) checkText(doc *strictyaml.Document, path, text string) {
	switch {
	case len(text) > maxText:
		c.report(doc, path, "longer than %d bytes", maxText)
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }):
		c.report(doc, path, "has a character that cannot be seen, such as a line end")
	}
}

func (c *checker) checkRequestors(doc *strictyaml.Document, path string, f *Flow) {
	problems := len(c.problems)
	c.checkPeople(doc, path, f.Requestors)
	switch {
	case len(c.problems) > problems:
	case !doc.Sound(path) || !doc.Sound(path+".users") || !doc.Sound(path+".groups"):
	case f.Requestors.empty():
		c.report(doc, path, "required: the users and groups who may ask")
	case !c.partial && len(c.member.people(f.Requestors)) == 0:
		c.report(doc, path, "nobody could ask: there is no such user, and nobody in such a group")
	}
}

func (c *checker) checkTargets(doc *strictyaml.Document, path string, f *Flow) {
	if len(f.Targets) == 0 && doc.Sound(path) {
		c.report(doc, path, "required: what can be asked for")
	}
	for i := range f.Targets {
		t, at := &f.Targets[i], fmt.Sprintf("%s[%d]", path, i)
		if !doc.Sound(at) {
			continue
		}
		c.checkLabels(doc, at+".labels", t.Labels)
		if len(t.Integrations) == 0 && t.Labels == nil && doc.Sound(at+".integrations") && doc.Sound(at+".labels") {
			c.report(doc, at+".integrations", "required")
		}
		c.checkList(doc, at+".integrations", t.Integrations, func(doc *strictyaml.Document, at, name string) {
			standard, known, absent := c.integration(name)
			switch {
			case absent != "":
			case !known:
				c.unknownName(doc, at, unknownIntegration, name, maps.Keys(c.integrations))
			case standard == "" && len(t.Databases) == 0:
				c.report(doc, at, "the integration has no database of its own: databases is required")
			}
		})
		c.checkList(doc, at+".databases", t.Databases, c.checkDatabase)
		if t.Databases != nil && len(t.Databases) == 0 {
			c.report(doc, at+".databases", "empty: leave the key out for the integration's database")
		}
		c.checkAccessList(doc, at+".access", t.Access)
		if len(t.Access) == 0 && doc.Sound(at+".access") {
			c.report(doc, at+".access", "required: a list of READ_ONLY, READ_WRITE, ADMIN and mappings as in a grant")
		}
	}
}

func (c *checker) checkAccessList(doc *strictyaml.Document, path string, list []Access) {
	for i := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.checkAccess(doc, at, &list[i])
		if doc.Sound(at) && slices.ContainsFunc(list[:i], list[i].Equal) {
			c.report(doc, at, "is in the list twice")
		}
	}
}

// checkDuration checks a length of time; the unit that it is counted in is a second.
func (c *checker) checkDuration(doc *strictyaml.Document, path string, d, longest time.Duration) {
	switch {
	case !doc.Sound(path):
	case d > 0 && d < time.Second:
		c.report(doc, path, "want a second at least")
	case d > longest:
		c.report(doc, path, "want %s at most", inWords(longest))
	}
}

func (c *checker) checkDurations(doc *strictyaml.Document, path string, f *Flow) {
	if f.MaxDuration == 0 && doc.Sound(path+".max_duration") {
		c.report(doc, path+".max_duration", "required: there is no indefinite access (want such as 8h)")
	}
	c.checkDuration(doc, path+".max_duration", f.MaxDuration, longestGrant)
	c.checkDuration(doc, path+".request_ttl", f.RequestTTL, longestTTL)
	if f.MaxDuration > 0 && f.Duration > f.MaxDuration {
		c.report(doc, path+".duration", "is longer than max_duration")
		return
	}
	c.checkDuration(doc, path+".duration", f.Duration, longestGrant)
}

func (c *checker) checkJustification(doc *strictyaml.Document, path string, j Justification) {
	const longest = 500
	if j.MinLength < 0 || j.MinLength > longest {
		c.report(doc, path+".min_length", "want 0 to %d", longest)
	}
	c.checkText(doc, path+".hint", j.Hint)
}

func (c *checker) checkApproval(doc *strictyaml.Document, path string, f *Flow) {
	a := f.Approval
	if a == nil || a.None || !doc.Sound(path) {
		return
	}
	key := ".any_of"
	switch {
	case !doc.Sound(path+".any_of") || !doc.Sound(path+".all_of"):
		return
	case len(a.AnyOf) > 0 && len(a.AllOf) > 0:
		c.report(doc, path, "has any_of and all_of: want one of them")
		return
	case len(a.AnyOf)+len(a.AllOf) == 0:
		c.report(doc, path, "any_of or all_of required: who decides (or write none, and everything is approved at once)")
		return
	case len(a.AllOf) > 0:
		key = ".all_of"
	}
	if a.Count < 0 || a.Count > maxCount {
		c.report(doc, path+".count", "want 1 to %d", maxCount)
		return
	}
	if !c.checkDeciders(doc, path+key, a.sets(), f.Requestors, "decide their own request") {
		return
	}
	for _, requestor := range c.member.people(f.Requestors) {
		everybody := slices.DeleteFunc(slices.Collect(maps.Keys(c.member)), func(p string) bool { return p == requestor })
		if a.enough(c.member, everybody) {
			return
		}
	}
	c.report(doc, path, "nobody could get it: %d different people besides the one who asks are needed, and there are not as many", a.needed()*max(len(a.AllOf), 1))
}

// checkDeciders checks lists of people who decide about others. It reports false when there is no sense in looking on.
func (c *checker) checkDeciders(doc *strictyaml.Document, path string, sets []People, others People, what string) bool {
	before := len(c.problems)
	askers := c.member.people(others)
	for i, set := range sets {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !doc.Sound(at) || !doc.Sound(at+".users") || !doc.Sound(at+".groups") {
			return false
		}
		problems := len(c.problems)
		c.checkPeople(doc, at, set)
		people := c.member.people(set)
		switch {
		case c.partial || len(c.problems) > problems:
		case set.empty():
			c.report(doc, at, "users or groups required")
		case len(people) == 0:
			c.report(doc, at, "there is nobody in it")
		case len(people) == 1 && len(askers) == 1 && people[0] == askers[0]:
			c.report(doc, at, "there is only %s in it, and nobody may %s", people[0], what)
		}
	}
	return len(c.problems) == before && !c.partial && len(askers) > 0
}

func (c *checker) checkAutoApprove(doc *strictyaml.Document, path string, f *Flow) {
	if len(f.AutoApprove) > 0 && f.atOnce() {
		c.report(doc, path, "without effect: the flow has no approval, so everything is approved at once")
	}
	for i, rule := range f.AutoApprove {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !doc.Sound(at) {
			continue
		}
		who := People{Users: rule.Users, Groups: rule.Groups}
		c.checkPeople(doc, at, who)
		if rule.When == nil && len(rule.Access) == 0 && who.empty() && doc.Sound(at+".when") && doc.Sound(at+".access") {
			c.report(doc, at, "approves everything: want when, access, users or groups (or approval: none)")
		}
		c.checkWindow(doc, at+".when", rule.When)
		c.checkAccessList(doc, at+".access", rule.Access)
		for k, a := range rule.Access {
			if doc.Sound(fmt.Sprintf("%s.access[%d]", at, k)) && !f.gives(a) {
				c.report(doc, fmt.Sprintf("%s.access[%d]", at, k), "is in none of the flow's targets")
			}
		}
	}
}

func (f *Flow) gives(a Access) bool {
	return slices.ContainsFunc(f.Targets, func(t Target) bool { return slices.ContainsFunc(t.Access, a.Equal) })
}

func (c *checker) checkWindow(doc *strictyaml.Document, path string, w *Window) {
	if w == nil || !doc.Sound(path) {
		return
	}
	for i := range w.Days {
		if slices.Contains(w.Days[:i], w.Days[i]) && doc.Sound(fmt.Sprintf("%s.days[%d]", path, i)) {
			c.report(doc, fmt.Sprintf("%s.days[%d]", path, i), "%q is in the list twice", days[w.Days[i].Weekday])
		}
	}
	switch {
	case !doc.Sound(path+".from") || !doc.Sound(path+".to") || !doc.Sound(path+".days"):
	case w.Days != nil && len(w.Days) == 0:
		c.report(doc, path+".days", "empty: leave the key out for all days")
	case w.From.minutes == 24*60:
		c.report(doc, path+".from", "the day is over at 24:00: want 00:00 to 23:59")
	case w.To.set && w.From.minutes == w.To.minutes:
		c.report(doc, path+".to", "no time is between %s and %s: leave both out for the whole day", w.From, w.To)
	case len(w.Days) == 0 && !w.From.set && !w.To.set:
		c.report(doc, path, "limits nothing: want days, or from and to")
	}
}

func (c *checker) checkExtensions(doc *strictyaml.Document, path string, f *Flow) {
	const most = 100
	e := f.Extensions
	if e == nil || !doc.Sound(path) {
		return
	}
	if (e.Max < 1 || e.Max > most) && doc.Sound(path+".max") {
		c.report(doc, path+".max", "want 1 to %d (leave extensions out for none)", most)
	}
	c.checkDuration(doc, path+".duration", e.Duration, longestGrant)
}

func (c *checker) checkBreakGlass(doc *strictyaml.Document, path string, f *Flow) {
	b := f.BreakGlass
	if b == nil || !doc.Sound(path) {
		return
	}
	c.checkPeople(doc, path, b.people())
	c.checkList(doc, path+".notify", b.Notify, c.checkKnownGroup)
	sound := doc.Sound(path+".users") && doc.Sound(path+".groups")
	switch {
	case !sound:
	case b.people().empty():
		c.report(doc, path, "users or groups required: who may break the glass")
	case !c.partial && len(c.member.people(b.people())) == 0:
		c.report(doc, path, "nobody could break the glass: nobody is in it")
	}
	switch {
	case !doc.Sound(path + ".max_duration"):
	case b.MaxDuration == 0:
		c.report(doc, path+".max_duration", "required (want such as 1h)")
	case f.MaxDuration > 0 && b.MaxDuration > f.MaxDuration:
		c.report(doc, path+".max_duration", "is longer than the flow's max_duration")
	default:
		c.checkDuration(doc, path+".max_duration", b.MaxDuration, longestGrant)
	}
	if len(b.ReviewBy) == 0 && doc.Sound(path+".review_by") {
		c.report(doc, path+".review_by", "required: each use owes a review by somebody else")
		return
	}
	if !doc.Sound(path+".review_by") || !c.checkDeciders(doc, path+".review_by", b.ReviewBy, b.people(), "review their own use of break-glass") {
		return
	}
	for _, user := range c.member.people(b.people()) {
		if !slices.ContainsFunc(b.ReviewBy, func(p People) bool {
			return slices.ContainsFunc(c.member.people(p), func(reviewer string) bool { return reviewer != user })
		}) {
			c.report(doc, path+".review_by", "nobody but %s could review what %s does", user, user)
			return
		}
	}
}
