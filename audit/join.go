package audit

import (
	"fmt"
	"strings"
	"time"
)

// Joiner completes records of a session with what the session's start said, so that each can be read by itself. It
// remembers the sessions that are live at the place where it reads.
type Joiner struct{ sessions map[string]Record }

// Join completes a record. Records must come in the trail's order.
func (j *Joiner) Join(r *Record) {
	if r.Session == "" {
		return
	}
	if r.Event == SessionStart {
		if j.sessions == nil {
			j.sessions = make(map[string]Record)
		}
		j.sessions[r.Session] = Record{Subject: r.Subject, Right: r.Right}
		return
	}
	start, ok := j.sessions[r.Session]
	if !ok {
		return
	}
	fill := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	fill(&r.User, start.User)
	fill(&r.RemoteAddr, start.RemoteAddr)
	fill(&r.Application, start.Application)
	fill(&r.Integration, start.Integration)
	fill(&r.Database, start.Database)
	fill(&r.Requested, start.Requested)
	fill(&r.Grant, start.Grant)
	fill(&r.Access, start.Access)
	fill(&r.Reason, start.Reason)
	if r.Until.IsZero() {
		r.Until = start.Until
	}
	if r.Event == SessionEnd {
		delete(j.sessions, r.Session)
	}
}

// Filter chooses records. What is empty chooses all.
type Filter struct {
	User, Integration, Grant, Session, Role string // as they are in the record
	Event                                   Event
	Text                                    string    // anywhere in what was asked for, in any case
	Since                                   time.Time // inclusive
	Before                                  time.Time // exclusive
}

// Match says whether a record is chosen. It should have been joined.
func (f *Filter) Match(r *Record) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return is(f.User, r.User) && is(f.Integration, r.Integration) && is(f.Grant, r.Grant) && is(f.Session, r.Session) &&
		is(f.Role, r.Role) && is(string(f.Event), string(r.Event)) &&
		(f.Since.IsZero() || !r.Time.Before(f.Since)) && (f.Before.IsZero() || r.Time.Before(f.Before)) &&
		(f.Text == "" || strings.Contains(strings.ToLower(r.asked()), strings.ToLower(f.Text)))
}

// asked is everything that a record says about what was asked for.
func (r *Record) asked() string {
	var b strings.Builder
	b.WriteString(r.Statement)
	b.Write(r.StatementBase64)
	fmt.Fprint(&b, " ", r.Prepared, " ", r.Portal)
	for _, p := range r.Parameters {
		b.WriteByte(' ')
		b.WriteString(p.String())
	}
	return b.String()
}

// String is the value for people.
func (p Parameter) String() string {
	switch {
	case p.Null:
		return "NULL"
	case p.Binary:
		return `\x` + p.Hex
	case len(p.Base64) > 0:
		return string(p.Base64)
	}
	return p.Text
}

// Known says whether there is such an event.
func (e Event) Known() bool { return e.known() }
