package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hourgate/hourgate/policy"
)

// Ask files a request. Where nobody needs to decide it is access when Ask returns.
func (s *Service) Ask(ctx context.Context, w policy.Wish) (*Request, policy.Plan, error) {
	return s.ask(ctx, w, false)
}

// AskOnce is Ask, unless the person waits for the same already: then that is it. Those who decide are not asked twice by somebody
// who tries again.
func (s *Service) AskOnce(ctx context.Context, w policy.Wish) (*Request, policy.Plan, error) {
	return s.ask(ctx, w, true)
}

func (s *Service) ask(ctx context.Context, w policy.Wish, once bool) (*Request, policy.Plan, error) {
	store, err := s.store()
	if err != nil {
		return nil, policy.Plan{}, err
	}
	w.Reason = spoken(w.Reason)
	if err := errors.Join(checkText("the reason", w.Reason, maxReason), checkText("the access", w.Access, maxReason)); err != nil {
		return nil, policy.Plan{}, firstRefusal(err)
	}
	w.At = s.now()
	plan, err := s.policySet().Plan(w)
	if err != nil {
		return nil, plan, asRefused(err)
	}
	if l, locked := s.cfg.Live.Set().Locked(w.User, "", plan.Integration, w.At); locked {
		return nil, plan, lockedOut(l)
	}
	r := &Request{
		State: Pending, User: w.User, Flow: plan.Flow.Name, Integration: plan.Integration, Databases: plan.Databases, Access: plan.Access.String(),
		For: plan.For, Reason: w.Reason, BreakGlass: w.BreakGlass, Asked: w.At, Lapses: w.At.Add(plan.Flow.TTL()),
	}
	e := event{kind: requestFiled, by: w.User}
	if plan.AtOnce != "" {
		r.Decisions = []Decision{{By: plan.AtOnce, Rule: true, At: w.At, Approve: true}}
		r.approve(w.At)
		e = event{kind: requestApproved, by: w.User, rule: plan.AtOnce}
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if once {
		was, err := waiting(ctx, store, r)
		if err != nil || was != nil {
			return was, plan, s.storeError(err)
		}
	}
	if err := mayFile(ctx, store, r); err != nil {
		return nil, plan, s.storeError(err)
	}
	if err := store.Create(ctx, r, maxOpen, s.announce(e)); err != nil {
		return nil, plan, s.storeError(err)
	}
	s.count(e, r)
	if r.BreakGlass {
		s.log.Warn("the glass was broken: somebody is let in without a decision", "request", r.ID, "user", r.User, "flow", r.Flow, "integration", r.Integration)
	}
	s.refreshNow(ctx)
	if r.State == Approved {
		return s.activate(ctx, r), plan, nil
	}
	return r, plan, nil
}

// waiting is a request of the same person for the same that waits for a decision, or nil.
func waiting(ctx context.Context, store Store, r *Request) (*Request, error) {
	open, err := store.Requests(ctx, Filter{User: r.User, Open: true})
	i := slices.IndexFunc(open, func(o *Request) bool {
		return o.State == Pending && r.State == Pending && r.Asked.Before(o.Lapses) && o.Flow == r.Flow && o.Integration == r.Integration &&
			slices.Equal(o.Databases, r.Databases) && o.Access == r.Access && o.For == r.For && o.Reason == r.Reason
	})
	if err != nil || i < 0 {
		return nil, err
	}
	return open[i], nil
}

// mayFile bounds how often a person asks: each request is told to those who decide, also one that is withdrawn at once. Replicas
// that look at the same time may let one more pass each. Breaking the glass is bounded by its review.
func mayFile(ctx context.Context, store Store, r *Request) error {
	if r.BreakGlass {
		return nil
	}
	filed, err := store.Requests(ctx, Filter{User: r.User, Limit: maxAnHour})
	if err != nil {
		return err
	}
	if len(filed) < maxAnHour || !filed[maxAnHour-1].Asked.After(r.Asked.Add(-time.Hour)) {
		return nil
	}
	return &Refused{
		Message: fmt.Sprintf("you have asked %d times within an hour", maxAnHour),
		Hint:    "You can ask again at " + filed[maxAnHour-1].Asked.Add(time.Hour).Format("15:04 UTC") + ".",
	}
}

// approve starts the clock.
func (r *Request) approve(now time.Time) {
	r.State, r.Approved, r.Until = Approved, now, now.Add(r.For)
}

// activate notes that a request is in force. If that can't be kept now, Run does it later: nothing depends on it.
func (s *Service) activate(ctx context.Context, r *Request) *Request {
	active, err := s.change(ctx, r.ID, func(r *Request) (event, error) { return event{kind: requestActive}, r.move(Active) })
	if err != nil && active == nil {
		return r
	}
	return active // as it is now, also where Run, or another gate, was faster
}

func asRefused(err error) error {
	var o *policy.Objection
	if errors.As(err, &o) {
		return &Refused{Message: o.Message, Detail: o.Detail, Hint: o.Hint}
	}
	return err
}

// firstRefusal is the first of errors that were joined.
func firstRefusal(err error) error {
	var why *Refused
	if errors.As(err, &why) {
		return why
	}
	return err
}

func lockedOut(l policy.Lock) *Refused {
	return &Refused{Message: l.String() + " is locked: " + l.Reason}
}

// Extend asks for more time, from the end that there is now. Only the owner does. Where nobody needs to decide the end
// has moved when Extend returns.
func (s *Service) Extend(ctx context.Context, user string, id int64, d time.Duration, reason string) (*Request, error) {
	reason = spoken(reason)
	if err := checkText("the reason", reason, maxReason); err != nil {
		return nil, err
	}
	return s.change(ctx, id, func(r *Request) (event, error) {
		now := s.now()
		switch {
		case r.User != user:
			return event{}, s.notTheirs(r, user)
		case !r.State.Granted() || !now.Before(r.Until):
			return event{}, refused("request %d is %s, so there is nothing to extend", id, r.describe())
		case r.extension() != nil:
			return event{}, refused("an extension of request %d waits for a decision already", id)
		}
		free, o := s.policySet().MayExtend(r.granted(), d, now)
		if o != nil {
			return event{}, asRefused(o)
		}
		x := Extension{For: d, Reason: reason, State: Pending, Asked: now, Lapses: now.Add(s.policySet().Flow(r.Flow).TTL())}
		e := event{kind: extensionFiled, by: user}
		if free {
			x.State = Approved
			x.Decisions = []Decision{{By: "flow " + r.Flow, Rule: true, At: now, Approve: true}}
			r.Until = r.Until.Add(d)
			e = event{kind: requestExtended, by: user, rule: "flow " + r.Flow}
		}
		r.Extensions = append(r.Extensions, x)
		return e, nil
	})
}

// notTheirs is what somebody is told of a request that is not theirs: nothing, unless they may see it.
func (s *Service) notTheirs(r *Request, user string) error {
	if s.maySee(r, user) {
		return refused("request %d is %s's, not yours", r.ID, r.User)
	}
	return ErrNotFoundRefused
}

// ErrNotFoundRefused is what a person is told of a request that is not there, or not for their eyes.
var ErrNotFoundRefused = refused("there is no such request")
