package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"
)

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
