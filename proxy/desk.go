package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/internal/strangers"
	"github.com/hourgate/hourgate/policy"
)

// Desk is where somebody who has no grant may ask for one while they connect: psql "… options=-chourgate.reason=INC-42".
type Desk interface {
	// Ask makes a request of a log-in that the policy has refused, and waits for its decision, at most Applicant.Wait. The
	// client is authenticated and knows it; notice tells it something at once, by any goroutine, until Ask returns. ctx ends
	// when the client leaves. After nil the policy is asked again. An error that is a *DeskRefusal is told to the client; any
	// other is an internal error.
	Ask(ctx context.Context, a Applicant, notice func(text string)) error
}

// Applicant is a log-in that asks.
type Applicant struct {
	Info
	Wanted   string          // the database as the client has named it
	Decision policy.Decision // why it was refused
	Reason   string          // hourgate.reason, as sent: at most 1,000 bytes of valid UTF-8 without control characters
	Access   string          // hourgate.access, as sent; "" was not said
	For      time.Duration   // hourgate.for; 0 was not said
	Wait     time.Duration   // hourgate.wait; default 5 minutes, at most 30. 0 asks and leaves
}

// DeskReason says why an applicant was not let in, for logs, metrics and the trail. The set is closed.
type DeskReason string

// The reasons.
const (
	RequestPending DeskReason = "request_pending" // it is made, and not decided yet
	RequestDenied  DeskReason = "request_denied"
	RequestInvalid DeskReason = "request_invalid" // no flow allows it
)

// DeskRefusal is what an applicant is told who is not let in. Detail and Hint may be empty.
type DeskRefusal struct {
	Reason                DeskReason
	Message, Detail, Hint string
}

func (e *DeskRefusal) Error() string { return e.Message }

// petition is what the options hourgate.… of a startup packet have said.
type petition struct {
	reason, access    string
	duration, patient time.Duration
}

const (
	maxPetitionReason = 1000
	defaultPatience   = 5 * time.Minute
	maxPatience       = 30 * time.Minute
	petitionPrefix    = "hourgate."
)

// setPetition takes an option of ours in. Its name has the prefix.
func (s *startup) setPetition(name, value string) error {
	if s.petition == nil {
		s.petition = &petition{patient: defaultPatience}
	}
	p := s.petition
	switch strings.TrimPrefix(name, petitionPrefix) {
	case "reason":
		if len(value) > maxPetitionReason || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
			return invalidPetition(name, "want at most 1,000 bytes of UTF-8 without control characters")
		}
		p.reason = value
	case "access":
		p.access = strangers.Printable(value)
	case "for":
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return invalidPetition(name, "want a duration such as 2h or 30m")
		}
		p.duration = d
	case "wait":
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || d > maxPatience {
			return invalidPetition(name, "want a duration of at most 30m, such as 5m, or 0s")
		}
		p.patient = d
	default:
		return invalidPetition(name, "there are hourgate.reason, hourgate.access, hourgate.for and hourgate.wait")
	}
	return nil
}

func invalidPetition(name, want string) *refusal {
	return &refusal{
		code: pgerrcode.InvalidParameterValue, reason: "parameter",
		message: fmt.Sprintf("invalid value or name of parameter %q", strangers.Printable(name)), detail: want,
	}
}

// apply lets an authenticated client ask for the grant that it lacks, and authorizes it again. refused is why it was not
// let in.
func (s *session) apply(ctx context.Context, refused error) error {
	p := s.startup.petition
	if s.server.cfg.Desk == nil || p == nil || s.decision.Reason == "" {
		return refused
	}
	a := Applicant{
		Info: *s.info.Load(), Wanted: s.requestedDatabase(), Decision: s.decision,
		Reason: p.reason, Access: p.access, For: p.duration, Wait: p.patient,
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.deadline(time.Time{})
	left := s.watchLeaving(cancel)

	var notices sync.Mutex
	open := true
	err := s.server.cfg.Desk.Ask(ctx, a, func(text string) {
		notices.Lock()
		defer notices.Unlock()
		if open {
			_ = s.client.SetWriteDeadline(time.Now().Add(farewellTimeout))
			_ = s.send(&pgproto3.NoticeResponse{Severity: "NOTICE", SeverityUnlocalized: "NOTICE", Code: pgerrcode.SuccessfulCompletion, Message: text})
		}
	})
	notices.Lock()
	open = false
	notices.Unlock()

	_ = s.client.SetReadDeadline(past)
	<-left
	var told *DeskRefusal
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &told):
		return &refusal{code: pgerrcode.InvalidAuthorizationSpecification, reason: string(told.Reason), message: told.Message, detail: told.Detail, hint: told.Hint}
	case err != nil:
		return fmt.Errorf("asking for a grant: %w", err)
	}
	return s.authorize()
}

// watchLeaving calls gone when the client leaves, which must send nothing now, until its read deadline has passed. The
// channel is closed when nobody reads any more.
func (s *session) watchLeaving(gone func(error)) <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		n, err := s.client.Read(make([]byte, 1))
		switch {
		case n > 0:
			gone(protocolViolation("expected nothing before ReadyForQuery"))
		case !isTimeoutError(err):
			gone(errDisconnect)
		}
	}()
	return over
}

func isTimeoutError(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
