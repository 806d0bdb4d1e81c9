package access

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A Verdict is what an approver says.
type Verdict struct {
	Approve bool
	For     time.Duration // 0: as asked for; shorter, never longer
	Access  string        // empty: as asked for; a lower level, never more
	Reason  string
}

// Decide takes one person's verdict about a request, or about the extension of one that waits. An approval that completes
// what the flow in force wants is access when Decide returns.
func (s *Service) Decide(ctx context.Context, person string, id int64, v Verdict) (*Request, error) {
	v.Reason = spoken(v.Reason)
	if err := checkText("the reason", v.Reason, maxReason); err != nil {
		return nil, err
	}
	lapsed := false
	r, err := s.change(ctx, id, func(r *Request) (event, error) {
		lapsed = false
		if !s.maySee(r, person) {
			return event{}, ErrNotFoundRefused
		}
		now := s.now()
		if r.State == Pending && !now.Before(r.Lapses) {
			lapsed = true
			return event{kind: requestLapsed}, r.move(Lapsed)
		}
		set := s.policySet()
		if o := set.MayDecide(person, r.granted()); o != nil {
			return event{}, asRefused(o)
		}
		if f := set.Flow(r.Flow); v.Reason == "" && f.Approval.ReasonRequired {
			return event{}, &Refused{Message: "flow " + f.Name + " wants a reason for each decision", Hint: "Add REASON '…'."}
		}
		if l, locked := s.cfg.Live.Set().Locked(person, "", "", now); locked {
			return event{}, lockedOut(l)
		}
		d := Decision{By: person, At: now, Approve: v.Approve, Reason: v.Reason}
		if x := r.extension(); x != nil {
			return s.decideExtension(r, x, d, v)
		}
		return s.decideRequest(r, d, v)
	})
	switch {
	case err != nil:
		return r, err
	case lapsed:
		return r, refused("request %d has lapsed: nobody decided before %s", id, r.Lapses.Format("2006-01-02 15:04:05 UTC"))
	case r.State == Approved:
		return s.activate(ctx, r), nil
	}
	return r, nil
}

// decideRequest adds a decision about a request that waits for one.
func (s *Service) decideRequest(r *Request, d Decision, v Verdict) (event, error) {
	if r.State != Pending {
		return event{}, &Refused{Message: "request " + itoa(r.ID) + " is " + r.describe(), Detail: r.decided()}
	}
	if !d.Approve {
		r.Decisions = append(r.Decisions, d)
		return event{kind: requestDenied, by: d.By, reason: d.Reason}, r.move(Denied)
	}
	if slices.Contains(approvers(r.Decisions), d.By) {
		return event{}, refused("you have approved request %d already, and it needs others too", r.ID)
	}
	set := s.policySet()
	switch {
	case v.For < 0 || v.For > r.For:
		return event{}, refused("an approver may shorten the time, never lengthen it: %s was asked for", r.For)
	case v.For > 0:
		r.For = v.For
	}
	if v.Access != "" {
		if o := set.MayNarrow(r.granted(), v.Access); o != nil {
			return event{}, asRefused(o)
		}
		r.Access = v.Access
	}
	r.Decisions = append(r.Decisions, d)
	enough, o := set.MayGrant(r.granted(), approvers(r.Decisions), d.At)
	switch {
	case o != nil:
		return event{}, asRefused(o)
	case !enough:
		return event{kind: requestSeconded, by: d.By, reason: d.Reason}, nil
	}
	r.approve(d.At)
	return event{kind: requestApproved, by: d.By, reason: d.Reason}, nil
}

// decideExtension adds a decision about x, which waits for one. The end moves from where it is.
func (s *Service) decideExtension(r *Request, x *Extension, d Decision, v Verdict) (event, error) {
	if !d.Approve {
		x.Decisions = append(x.Decisions, d)
		x.State = Denied
		return event{kind: extensionDenied, by: d.By, reason: d.Reason}, nil
	}
	set := s.policySet()
	switch {
	case !d.At.Before(r.Until):
		return event{}, refused("request %d has ended, so there is nothing to extend", r.ID)
	case v.For == 0:
		// An approval of the request that comes twice, or late, must not be one of an extension that its sender has not seen.
		return event{}, &Refused{
			Message: fmt.Sprintf("request %d is active, and %s asks for %s more", r.ID, r.User, x.For),
			Hint:    fmt.Sprintf("To approve that, say for how long: APPROVE %d FOR '%s';", r.ID, x.For),
		}
	case slices.Contains(approvers(x.Decisions), d.By):
		return event{}, refused("you have approved this extension already, and it needs others too")
	case v.For < 0 || v.For > x.For:
		return event{}, refused("an approver may shorten the time, never lengthen it: %s was asked for", x.For)
	case v.Access != "" && v.Access != r.Access:
		return event{}, refused("an extension leaves the access as it is: %s", r.Access)
	}
	x.For = v.For
	if _, o := set.MayExtend(r.granted(), x.For, d.At); o != nil {
		return event{}, asRefused(o)
	}
	x.Decisions = append(x.Decisions, d)
	enough, o := set.MayGrant(r.granted(), approvers(x.Decisions), d.At)
	switch {
	case o != nil:
		return event{}, asRefused(o)
	case !enough:
		return event{kind: requestSeconded, by: d.By, reason: d.Reason}, nil
	}
	x.State = Approved
	r.Until = r.Until.Add(x.For)
	return event{kind: requestExtended, by: d.By, reason: d.Reason}, nil
}

// decided says who has decided, for whoever comes second.
func (r *Request) decided() string {
	if len(r.Decisions) == 0 {
		return ""
	}
	d := r.Decisions[len(r.Decisions)-1]
	verdict := "Denied"
	if d.Approve {
		verdict = "Approved"
	}
	return verdict + " by " + d.By + " at " + d.At.Format("2006-01-02 15:04:05 UTC") + "."
}

// Review takes what somebody else says of a use of break-glass.
func (s *Service) Review(ctx context.Context, person string, id int64, reason string) (*Request, error) {
	reason = spoken(reason)
	if reason == "" {
		return nil, &Refused{Message: "a review says something", Hint: "Add REASON '…'."}
	}
	if err := checkText("the review", reason, maxReason); err != nil {
		return nil, err
	}
	return s.change(ctx, id, func(r *Request) (event, error) {
		switch {
		case !s.maySee(r, person):
			return event{}, ErrNotFoundRefused
		case !r.BreakGlass:
			return event{}, refused("request %d was no use of break-glass", id)
		case r.Review != nil:
			return event{}, refused("%s has reviewed request %d already", r.Review.By, id)
		}
		if o := s.policySet().MayReview(person, r.granted()); o != nil {
			return event{}, asRefused(o)
		}
		r.Review = &Review{By: person, At: s.now(), Reason: reason}
		return event{kind: requestReviewed, by: person, reason: reason}, nil
	})
}
