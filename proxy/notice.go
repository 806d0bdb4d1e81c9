package proxy

import (
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/policy"
)

// endingNotice tells people who can create objects, when they connect, what becomes of these.
func endingNotice(g *policy.Grant, ending string) *pgproto3.NoticeResponse {
	return &pgproto3.NoticeResponse{
		Severity: "NOTICE", SeverityUnlocalized: "NOTICE", Code: pgerrcode.SuccessfulCompletion,
		Message: fmt.Sprintf("grant %s ends at %s; %s", g.Name, g.Until.UTC().Format("2006-01-02 15:04:05 UTC"), ending),
	}
}

// warning is a notice that a client should show, whatever it does with others.
func warning(text string) *pgproto3.NoticeResponse {
	return &pgproto3.NoticeResponse{Severity: "WARNING", SeverityUnlocalized: "WARNING", Code: pgerrcode.Warning, Message: text}
}

// endOfGrant ends the session at its grant's end. Another grant of the person's goes on with another role, which needs another
// log-in: the hint says so.
func (s *session) endOfGrant() {
	told := errGrantEnded
	soon := time.Now().Add(time.Second) // the wall clock may be a little behind the timer, and then this grant is live yet
	if next := s.goesOn(soon); next != nil {
		told = &refusal{
			code: told.code, reason: told.reason, message: told.message,
			hint: fmt.Sprintf("Connect again: grant %s lets you in until %s.", next.Name, next.Until.UTC().Format("2006-01-02 15:04:05 UTC")),
		}
	}
	s.end(told)
}

// goesOn is the grant that the person has for this database at a time, beside that of the session, or nil. It may be called
// by any goroutine.
func (s *session) goesOn(at time.Time) *policy.Grant {
	name := s.target() + "/" + s.decision.Database
	next := s.server.cfg.Policy.Set().Decide(policy.Request{User: s.user, Database: name}, at).Grant
	if next == nil || next.Name == s.decision.Grant.Name {
		return nil
	}
	return next
}

// endWarning says how much time is left, and what happens then. next is the grant that goes on, or nil.
func endWarning(g, next *policy.Grant, left time.Duration) *pgproto3.NoticeResponse {
	text := fmt.Sprintf("grant %s ends in %s, at %s", g.Name, roughly(left), g.Until.UTC().Format("15:04:05 UTC"))
	if ending := g.Ending(false); ending != "" {
		text += "; " + ending
	}
	notice := warning(text)
	switch extend := g.ExtendCommand(); {
	case next != nil:
		notice.Hint = fmt.Sprintf("To go on, connect again after that: grant %s lets you in until %s.", next.Name, next.Until.UTC().Format("15:04:05 UTC"))
	case extend != "":
		notice.Hint = "To go on: " + extend
	}
	return notice
}

// roughly writes a duration as people say it.
func roughly(d time.Duration) string {
	unit, n := "second", int64(d.Round(time.Second)/time.Second)
	if n > 90 {
		unit, n = "minute", int64(d.Round(time.Minute)/time.Minute)
	}
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// warnBeforeEnd tells the client that its grant is about to end, once for each of the times before the end that the
// configuration names. A time that had passed when the session began is not told: whoever connects to a grant with seven
// minutes left needs no warning that it has less than fifteen. The server's mutex is held.
func (s *session) warnBeforeEnd(now time.Time, before []time.Duration) {
	if s.relay == nil {
		return
	}
	left := s.grant.Until.Sub(now)
	reached := untold
	for _, d := range before {
		if left <= d && d < reached {
			reached = d
		}
	}
	if s.warned == 0 { // the first look
		s.warned = reached
	}
	if reached < s.warned && left > 0 {
		if message, err := endWarning(s.grant, s.goesOn(s.grant.Until), left).Encode(nil); err == nil {
			s.relay.Notify(message)
		}
	}
	s.warned = reached // also a later one: an end that was put off is warned of again
}

// untold is the warning that has been given when there was none yet.
const untold = time.Duration(1<<63 - 1)
