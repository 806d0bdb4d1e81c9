package access

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/policy"
)

// kind is what has happened, as notifications and the trail name it.
type kind = audit.Event

const (
	requestFiled     = audit.RequestFiled
	requestSeconded  = audit.RequestSeconded
	requestApproved  = audit.RequestApproved
	requestActive    = audit.RequestActive
	requestDenied    = audit.RequestDenied
	requestWithdrawn = audit.RequestWithdrawn
	requestLapsed    = audit.RequestLapsed
	requestExtended  = audit.RequestExtended
	requestShortened = audit.RequestShortened
	requestEnded     = audit.RequestEnded
	requestReviewed  = audit.RequestReviewed
	extensionFiled   = audit.ExtensionFiled
	extensionDenied  = audit.ExtensionDenied
	extensionLapsed  = audit.ExtensionLapsed
)

var kinds = []kind{
	requestFiled, requestSeconded, requestApproved, requestActive, requestDenied, requestWithdrawn, requestLapsed, requestExtended,
	requestShortened, requestEnded, requestReviewed, extensionFiled, extensionDenied, extensionLapsed,
}

// event is a change of a request.
type event struct {
	kind   kind
	by     string // empty: nobody, time or the policy did it
	rule   string // why nobody had to decide
	reason string // of by
}

// ends reports whether the change takes access away, or gives none: that happens also when the trail is full.
func (e event) ends() bool {
	switch e.kind {
	case requestEnded, requestLapsed, requestShortened, requestWithdrawn, requestActive, requestDenied, extensionDenied, extensionLapsed:
		return true
	}
	return false
}

var errTrail = errors.New("the trail can't be written")

// announce records a change and makes the messages about it.
func (s *Service) announce(e event) Announce[*Request] {
	return func(r *Request) ([]Message, error) {
		if err := s.cfg.Trail.Append(e.record(r)); err != nil {
			s.metrics.trailErrors.Inc()
			s.log.Error("a change of a request can't be recorded", "event", string(e.kind), "request", r.ID, "error", err)
			if !e.ends() {
				return nil, errTrail
			}
		}
		if e.kind == requestActive {
			return nil, nil // said when it was approved
		}
		return s.messages(string(e.kind), e.notice(r, s.policySet()))
	}
}

// record is the change in the trail.
func (e event) record(r *Request) audit.Record {
	record := audit.Record{Event: e.kind, Detail: map[string]string{"request": itoa(r.ID), "flow": r.Flow, "requestor": r.User, "for": r.For.String()}}
	record.User, record.Integration, record.Grant, record.Access, record.Until, record.Reason = e.by, r.Integration, r.Grant(), r.Access, r.Until, r.Reason
	for i, d := range r.Databases {
		if i > 0 {
			record.Database += ","
		}
		record.Database += d
	}
	add := func(key, value string) {
		if value != "" {
			record.Detail[key] = value
		}
	}
	add("rule", e.rule)
	add("said", e.reason)
	add("end", string(r.End))
	if r.BreakGlass {
		add("break_glass", "true")
	}
	if n := len(r.Extensions); n > 0 && (e.kind == extensionFiled || e.kind == requestExtended) {
		add("extension", r.Extensions[n-1].For.String())
		add("extension_reason", r.Extensions[n-1].Reason)
	}
	return record
}

// A Notice is what notifications tell, as the data of a Standard Webhook. It decides nothing: Command is what a person can
// type, where they have to prove who they are.
type Notice struct {
	Request     int64      `json:"request,omitempty"`
	State       State      `json:"state,omitempty"`
	By          string     `json:"by,omitempty"`
	Rule        string     `json:"rule,omitempty"`
	Said        string     `json:"said,omitempty"`
	User        string     `json:"user,omitempty"`
	Flow        string     `json:"flow,omitempty"`
	Integration string     `json:"integration,omitempty"`
	Databases   []string   `json:"databases,omitempty"`
	Access      string     `json:"access,omitempty"`
	For         string     `json:"for,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	BreakGlass  bool       `json:"break_glass,omitempty"`
	Until       *time.Time `json:"until,omitempty"`
	End         End        `json:"end,omitempty"`
	Deciders    []string   `json:"deciders,omitempty"`
	Notify      []string   `json:"notify,omitempty"` // groups
	Lock        string     `json:"lock,omitempty"`
	Command     string     `json:"command,omitempty"`
}

// subject is what the notice is about: a request, or a lock.
func (n Notice) subject() string {
	if n.Lock != "" {
		return "lock " + n.Lock
	}
	return "request " + itoa(n.Request)
}

func (e event) notice(r *Request, set *policy.Set) Notice {
	n := Notice{
		Request: r.ID, State: r.State, By: e.by, Rule: e.rule, Said: e.reason, User: r.User, Flow: r.Flow, Integration: r.Integration,
		Databases: r.Databases, Access: r.Access, For: r.For.String(), Reason: r.Reason, BreakGlass: r.BreakGlass, End: r.End,
	}
	if !r.Until.IsZero() {
		n.Until = &r.Until
	}
	switch e.kind {
	case requestFiled, requestSeconded, extensionFiled:
		n.Deciders = set.Deciders(r.Flow, r.User)
		if x := r.extension(); x != nil {
			n.Command = fmt.Sprintf("APPROVE %d FOR '%s'; or DENY %d REASON '…'; in database hourgate", r.ID, x.For, r.ID)
			break
		}
		n.Command = fmt.Sprintf("APPROVE %d; or DENY %d REASON '…'; in database hourgate", r.ID, r.ID)
	case requestApproved, requestEnded:
		if f := set.Flow(r.Flow); r.BreakGlass && f != nil && f.BreakGlass != nil {
			n.Notify, n.Deciders = f.BreakGlass.Notify, set.Reviewers(r.Flow, r.User)
			n.Command = fmt.Sprintf("REVIEW %d REASON '…'; in database hourgate", r.ID)
		}
	}
	return n
}

// messages are one for each channel, in the envelope of Standard Webhooks.
func (s *Service) messages(kind string, n Notice) ([]Message, error) {
	if len(s.cfg.Channels) == 0 {
		return nil, nil
	}
	now := s.now()
	body, err := json.Marshal(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      Notice    `json:"data"`
	}{kind, now, n})
	if err != nil {
		return nil, err
	}
	var out []Message
	for _, channel := range s.cfg.Channels {
		out = append(out, Message{ID: "msg_" + rand.Text(), Channel: channel, Subject: n.subject(), Created: now, Body: body})
	}
	return out, nil
}
