package access

import (
	"context"
	"strconv"
	"time"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// An Actor is who does something: a person, or whoever may use the admin socket.
type Actor struct {
	Name     string
	Operator bool // may look after everybody's
}

// Stop ends what the actor may end: their own request, be it a wish or access, or as an operator or one of those who
// decide, somebody else's.
func (s *Service) Stop(ctx context.Context, who Actor, id int64, reason string) (*Request, error) {
	reason = spoken(reason)
	if err := checkText("the reason", reason, maxReason); err != nil {
		return nil, err
	}
	return s.change(ctx, id, func(r *Request) (event, error) {
		own := r.User == who.Name
		decides := s.policySet().MayDecide(who.Name, r.granted()) == nil
		now := s.now()
		switch {
		case !own && !who.Operator && !s.maySee(r, who.Name):
			return event{}, ErrNotFoundRefused
		case !own && !who.Operator && !decides:
			return event{}, refused("request %d is %s's, not yours", id, r.User)
		case own && r.State == Pending:
			return event{kind: requestWithdrawn, by: who.Name, reason: reason}, r.move(Withdrawn)
		case r.State == Pending:
			r.Decisions = append(r.Decisions, Decision{By: who.Name, At: now, Reason: reason})
			return event{kind: requestDenied, by: who.Name, reason: reason}, r.move(Denied)
		case own:
			return event{kind: requestEnded, by: who.Name, reason: reason}, r.stop(EndedByUser, now, who.Name, reason)
		}
		return event{kind: requestEnded, by: who.Name, reason: reason}, r.stop(Revoked, now, who.Name, reason)
	})
}

// stop ends access.
func (r *Request) stop(how End, now time.Time, by, why string) error {
	if err := r.move(Ended); err != nil {
		return err
	}
	r.End, r.EndedAt, r.EndedBy, r.EndWhy = how, now, by, why
	if n := len(r.Extensions); n > 0 && r.Extensions[n-1].State == Pending {
		r.Extensions[n-1].State = Lapsed
	}
	return nil
}

// maySee reports whether a person may know of a request: their own, one that they decide about or review, and, as an
// operator, all.
func (s *Service) maySee(r *Request, person string) bool {
	set := s.policySet()
	return r.User == person || set.Operator(person) || set.MayDecide(person, r.granted()) == nil || r.BreakGlass && set.MayReview(person, r.granted()) == nil
}

// Requests returns those that the actor may see, the newest first.
func (s *Service) Requests(ctx context.Context, who Actor, f Filter) ([]*Request, error) {
	store, err := s.store()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	all, err := store.Requests(ctx, f)
	if err != nil {
		return nil, s.storeError(err)
	}
	seen := all[:0]
	for _, r := range all {
		if who.Operator || s.maySee(r, who.Name) {
			seen = append(seen, r)
		}
	}
	return seen, nil
}

// Request returns one request that the actor may see.
func (s *Service) Request(ctx context.Context, who Actor, id int64) (*Request, error) {
	store, err := s.store()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	r, err := store.Request(ctx, id)
	switch {
	case err != nil:
		return nil, s.storeError(err)
	case !who.Operator && !s.maySee(r, who.Name):
		return nil, ErrNotFoundRefused
	}
	return r, nil
}
