package access

import (
	"fmt"
	"slices"
	"time"

	"github.com/hourgate/hourgate/policy"
)

// State is where a request stands.
type State string

// The states. Those after Active are final.
const (
	Pending   State = "pending"   // waits for a decision
	Approved  State = "approved"  // the decision is made, and its clock runs; a gate is about to put it in force
	Active    State = "active"    // in force
	Denied    State = "denied"    //
	Withdrawn State = "withdrawn" // by the one who asked
	Lapsed    State = "lapsed"    // nobody decided in time
	Ended     State = "ended"     // Request.End says how
)

// transitions are all there are.
var transitions = map[State][]State{
	Pending:  {Approved, Denied, Withdrawn, Lapsed},
	Approved: {Active, Ended},
	Active:   {Ended},
}

// Open reports whether something can still become of a request in this state.
func (s State) Open() bool { return len(transitions[s]) > 0 }

// Granted reports whether a request in this state gives access until its end.
func (s State) Granted() bool { return s == Approved || s == Active }

// An End is how access ended.
type End string

// The ends.
const (
	Expired     End = "expired"
	EndedByUser End = "ended by owner"
	Revoked     End = "revoked"
	Forbidden   End = "no longer allowed" // by the flows in force
	Restored    End = "state restored"    // the store is older than what this gate has seen: see Mark
)

// A Request is one person's wish under a flow, and what became of it. Its history is in its slices; times are UTC.
type Request struct {
	ID      int64 `json:"id"`
	Version int64 `json:"version"` // grows with each change; Store.Update compares it
	State   State `json:"state"`

	User        string        `json:"user"`
	Flow        string        `json:"flow"`
	Integration string        `json:"integration"`
	Databases   []string      `json:"databases"`
	Access      string        `json:"access"` // as policy.Access.String has it
	For         time.Duration `json:"for"`    // nanoseconds, as all durations
	Reason      string        `json:"reason,omitempty"`
	BreakGlass  bool          `json:"break_glass,omitempty"`
	Asked       time.Time     `json:"asked"`
	Lapses      time.Time     `json:"lapses"` // when it does, if it is not decided before

	Decisions []Decision `json:"decisions,omitempty"`

	Approved   time.Time   `json:"approved,omitzero"` // the clock of access starts here
	Until      time.Time   `json:"until,omitzero"`
	Extensions []Extension `json:"extensions,omitempty"`

	End     End       `json:"end,omitempty"`
	EndedAt time.Time `json:"ended_at,omitzero"`
	EndedBy string    `json:"ended_by,omitempty"`
	EndWhy  string    `json:"end_why,omitempty"`

	Review *Review `json:"review,omitempty"` // of a use of break-glass
}

// A Decision is what one person, or a rule, said.
type Decision struct {
	By      string    `json:"by"` // a user, or the rule in words when Rule is set
	Rule    bool      `json:"rule,omitempty"`
	At      time.Time `json:"at"`
	Approve bool      `json:"approve"`
	Reason  string    `json:"reason,omitempty"`
}

// An Extension is a wish for more time, and what became of it: Pending, Approved, Denied or Lapsed.
type Extension struct {
	For       time.Duration `json:"for"`
	Reason    string        `json:"reason,omitempty"`
	State     State         `json:"state"`
	Asked     time.Time     `json:"asked"`
	Lapses    time.Time     `json:"lapses"`
	Decisions []Decision    `json:"decisions,omitempty"`
}

// A Review is what somebody else says of a use of break-glass.
type Review struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// move takes the request to another state.
func (r *Request) move(to State) error {
	if !slices.Contains(transitions[r.State], to) {
		return &Refused{Message: fmt.Sprintf("request %d is %s", r.ID, r.describe())}
	}
	r.State = to
	return nil
}

// describe is the state in words.
func (r *Request) describe() string {
	if r.State == Ended {
		return fmt.Sprintf("ended already (%s)", r.End)
	}
	if !r.State.Open() {
		return string(r.State) + " already"
	}
	return string(r.State)
}

// Grant is the name of the grant that the request becomes.
func (r *Request) Grant() string { return policy.GrantName(r.ID) }

// clone is a copy that shares nothing with r that either changes.
func (r *Request) clone() *Request {
	c := *r
	c.Decisions = slices.Clone(r.Decisions)
	c.Extensions = slices.Clone(r.Extensions)
	for i := range c.Extensions {
		c.Extensions[i].Decisions = slices.Clone(c.Extensions[i].Decisions)
	}
	return &c
}

// extension is the one that waits for a decision, or nil.
func (r *Request) extension() *Extension {
	if n := len(r.Extensions); n > 0 && r.State.Granted() && r.Extensions[n-1].State == Pending {
		return &r.Extensions[n-1]
	}
	return nil
}

// granted is the request as policy knows it.
func (r *Request) granted() policy.Granted {
	g := policy.Granted{
		Request: r.ID, User: r.User, Flow: r.Flow, Integration: r.Integration, Databases: r.Databases, Access: r.Access,
		Approved: r.Approved, Until: r.Until, Reason: r.Reason, BreakGlass: r.BreakGlass,
	}
	for _, e := range r.Extensions {
		if e.State == Approved {
			g.Extensions = append(g.Extensions, e.For)
		}
	}
	return g
}

// OwesReview reports whether it was a use of break-glass that nobody has reviewed.
func (r *Request) OwesReview() bool { return r.BreakGlass && r.Review == nil && !r.Approved.IsZero() }

// next is the moment at which something becomes of the request by itself; zero for never.
func (r *Request) next() time.Time {
	switch {
	case r.State == Pending:
		return r.Lapses
	case !r.State.Granted():
		return time.Time{}
	}
	next := r.Until
	if e := r.extension(); e != nil && e.Lapses.Before(next) {
		next = e.Lapses
	}
	return next
}

// approvers are the people in decisions who approved.
func approvers(decisions []Decision) []string {
	var people []string
	for _, d := range decisions {
		if d.Approve && !d.Rule {
			people = append(people, d.By)
		}
	}
	return people
}
