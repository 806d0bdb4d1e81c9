package desk

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/policy"
)

// row makes one of texts; an empty one is NULL.
func row(texts ...string) []*string {
	r := make([]*string, len(texts))
	for i := range texts {
		if texts[i] != "" {
			r[i] = &texts[i]
		}
	}
	return r
}

func help() Result {
	var r Result
	for _, f := range forms {
		if f.example != "" {
			r.Rows = append(r.Rows, row(f.example, f.help))
		}
	}
	return r
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05+00")
}

// lengthOf is a length of time as it can be written after FOR.
func lengthOf(d time.Duration) string {
	d = d.Round(time.Second)
	var words []string
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if n := d / unit.length; n > 0 {
			d %= unit.length
			plural := "s"
			if n == 1 {
				plural = ""
			}
			words = append(words, fmt.Sprintf("%d %s%s", n, unit.name, plural))
		}
	}
	return strings.Join(words, " ")
}

func place(integration string, databases []string) string {
	places := make([]string, len(databases))
	for i, d := range databases {
		places[i] = integration + "/" + d
	}
	return strings.Join(places, ", ")
}

// rows is one request.
func (d *Desk) rows(who access.Actor, all ...*access.Request) Result {
	var result Result
	for _, r := range all {
		state := string(r.State)
		if r.State == access.Ended {
			state += " (" + string(r.End) + ")"
		}
		if r.BreakGlass {
			state += ", break-glass"
		}
		var by []string
		for _, dec := range r.Decisions {
			by = append(by, dec.By)
		}
		result.Rows = append(result.Rows, row(strconv.FormatInt(r.ID, 10), state, r.User, r.Access, place(r.Integration, r.Databases), lengthOf(r.For),
			when(r.Until), r.Reason, r.Flow, strings.Join(by, ", "), d.note(who, r)))
	}
	return result
}

// maxNames bounds how many people a note names.
const maxNames = 5

func names(people []string) string {
	if len(people) > maxNames {
		return fmt.Sprintf("%s and %d more", strings.Join(people[:maxNames], ", "), len(people)-maxNames)
	}
	return strings.Join(people, ", ")
}

// note says what comes next, and who can do it.
func (d *Desk) note(who access.Actor, r *access.Request) string {
	set := d.live.Set()
	deciders := set.Deciders(r.Flow, r.User)
	decides := slices.Contains(deciders, who.Name)
	switch {
	case r.State == access.Pending && decides:
		return fmt.Sprintf("APPROVE %d; or DENY %d REASON '…';", r.ID, r.ID)
	case r.State == access.Pending:
		return fmt.Sprintf("lapses at %s unless decided by %s", when(r.Lapses), names(deciders))
	case r.Waiting() && decides:
		x := r.Extensions[len(r.Extensions)-1]
		return fmt.Sprintf("%s asks for %s more: APPROVE %d FOR '%s'; or DENY %d;", r.User, lengthOf(x.For), r.ID, lengthOf(x.For), r.ID)
	case r.Waiting():
		return fmt.Sprintf("extension of %s waits for %s", lengthOf(r.Extensions[len(r.Extensions)-1].For), names(deciders))
	case r.OwesReview() && slices.Contains(set.Reviewers(r.Flow, r.User), who.Name):
		return fmt.Sprintf("REVIEW %d REASON '…';", r.ID)
	case r.OwesReview():
		return "a review is owed by " + names(set.Reviewers(r.Flow, r.User))
	case r.State.Granted() && r.User == who.Name:
		return fmt.Sprintf("connect to %s; END %d; when you are done", place(r.Integration, r.Databases), r.ID)
	case r.EndWhy != "":
		return r.EndWhy
	case r.State == access.Denied && len(r.Decisions) > 0:
		return r.Decisions[len(r.Decisions)-1].Reason
	case r.Review != nil:
		return "reviewed by " + r.Review.By + ": " + r.Review.Reason
	}
	return ""
}

// maxRecent is how many of a person's own requests, and of all, SHOW REQUESTS looks through, and maxOpen of those that
// wait for somebody.
const (
	maxRecent = 50
	maxOpen   = 10_000
)

// showRequests is, of what the actor may see: recent ones, open ones, and reviews that are owed, the newest first.
func (d *Desk) showRequests(ctx context.Context, who access.Actor) (Result, error) {
	all := make(map[int64]*access.Request)
	for _, f := range []access.Filter{{User: who.Name, Limit: maxRecent}, {Limit: maxRecent}, {Open: true, Limit: maxOpen}, {OwesReview: true, Limit: maxOpen}} {
		some, err := d.service.Requests(ctx, who, f)
		if err != nil {
			return Result{}, err
		}
		for _, r := range some {
			all[r.ID] = r
		}
	}
	ordered := make([]*access.Request, 0, len(all))
	for _, r := range all {
		ordered = append(ordered, r)
	}
	slices.SortFunc(ordered, func(a, b *access.Request) int { return cmp.Compare(b.ID, a.ID) })
	return d.rows(who, ordered...), nil
}

// showAccess is what a person has and could ask for.
func (d *Desk) showAccess(who access.Actor) Result {
	set, now := d.live.Set(), d.clock()
	var result Result
	for _, g := range set.Grants(who.Name) {
		if !now.Before(g.Until) {
			continue
		}
		status, how := "granted", "connect to "+g.Integration
		if now.Before(g.From) {
			status, how = "from "+when(g.From), ""
		}
		if l, locked := set.Locked(who.Name, g.Name, g.Integration, now); locked {
			status, how = "locked", l.Reason
		}
		if id, ok := strings.CutPrefix(g.Name, "request-"); ok && status == "granted" {
			how += "; END " + id + "; when you are done"
		}
		result.Rows = append(result.Rows, row(status, g.Access.String(), place(g.Integration, g.Databases), when(g.Until), g.Name, how))
	}
	if !set.Asking() {
		return result
	}
	for _, f := range set.FlowsOf(who.Name) {
		for _, o := range set.Offers(f, who.Name) {
			verb, status := "REQUEST ", "can ask"
			if o.BreakGlass {
				verb, status = "BREAK GLASS ", "emergency"
			}
			how := fmt.Sprintf("%s%s ON %s FOR '%s' REASON '…';", verb, policy.QuoteWord(o.Access), policy.QuoteWord(o.Integration+"/"+o.Database), lengthOf(o.For))
			result.Rows = append(result.Rows, row(status, o.Access, o.Integration+"/"+o.Database, "up to "+lengthOf(o.Longest), f.Name, how))
		}
	}
	return result
}

func (d *Desk) showSessions(who access.Actor) Result {
	var result Result
	for _, s := range d.sessions.Sessions() {
		if !who.Operator && s.User != who.Name {
			continue
		}
		target := s.Database
		if s.Integration != "" {
			target = s.Integration + "/" + s.Database
		}
		result.Rows = append(result.Rows, row(s.ID, s.User, s.Access, target, s.Grant, s.Client, visible(s.Application), when(s.Since), when(s.Until), s.State))
	}
	return result
}

// visible keeps what a client calls itself from playing with the terminal of whoever looks.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// showGrants is what the policy in force gives now, or will: that of the files, and what came of requests.
func (d *Desk) showGrants(who access.Actor) (Result, error) {
	if !who.Operator {
		return Result{}, &Error{Code: pgerrcode.InsufficientPrivilege, Message: "only operators see all grants", Hint: "SHOW ACCESS; shows yours."}
	}
	var result Result
	now := d.clock()
	for _, g := range d.live.Set().AllGrants() {
		state := "live"
		switch {
		case now.Before(g.From):
			state = "from " + when(g.From)
		case !g.Live(now):
			continue
		}
		people := policy.People{Users: g.Users, Groups: g.Groups}
		result.Rows = append(result.Rows, row(g.Name, state, people.String(), place(g.Integration, g.Databases), g.Access.String(), when(g.Until), g.Reason))
	}
	return result, nil
}

func (d *Desk) showLocks(who access.Actor) (Result, error) {
	if !who.Operator {
		return Result{}, &Error{Code: pgerrcode.InsufficientPrivilege, Message: "only operators see locks"}
	}
	var result Result
	for _, l := range d.service.Locks() {
		where := "all gates"
		if l.Local {
			where = "this gate"
		}
		result.Rows = append(result.Rows, row(string(l.Kind), l.Name, l.Reason, when(l.Until), l.By, when(l.At), where))
	}
	return result, nil
}
