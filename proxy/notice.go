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

// endWarning says how much time is left, and what happens then.
func endWarning(g *policy.Grant, left time.Duration) *pgproto3.NoticeResponse {
	text := fmt.Sprintf("grant %s ends in %s, at %s", g.Name, roughly(left), g.Until.UTC().Format("15:04:05 UTC"))
	if ending := g.Ending(false); ending != "" {
		text += "; " + ending
	}
	notice := warning(text)
	if extend := g.ExtendCommand(); extend != "" {
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
		if message, err := endWarning(s.grant, left).Encode(nil); err == nil {
			s.relay.Notify(message)
		}
	}
	s.warned = reached // also a later one: an end that was put off is warned of again
}

// untold is the warning that has been given when there was none yet.
const untold = time.Duration(1<<63 - 1)
