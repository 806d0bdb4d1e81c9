package policy

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

// A Flow says who may ask for what, for how long at most, and who decides. Nobody ever decides their own request.
type Flow struct {
	Name          string          `yaml:"name"`
	Description   string          `yaml:"description"`
	Requestors    People          `yaml:"requestors"`
	Targets       []Target        `yaml:"targets"`
	MaxDuration   time.Duration   `yaml:"max_duration"` // of a grant, from its approval, without extensions
	Duration      time.Duration   `yaml:"duration"`     // what is asked for by default
	Justification Justification   `yaml:"justification"`
	Approval      *Approval       `yaml:"approval"` // nil, or None: approved at once
	AutoApprove   []AutoApproval  `yaml:"auto_approve"`
	Timeframe     *Window         `yaml:"timeframe"`   // when access may be granted or extended; nil: always
	RequestTTL    time.Duration   `yaml:"request_ttl"` // after which an undecided request lapses
	Extensions    *ExtensionRules `yaml:"extensions"`  // nil: none
	BreakGlass    *BreakGlass     `yaml:"break_glass"` // nil: none
	Settings      Settings        `yaml:"settings"`
}

// A Target is what can be asked for: each kind of access to each of the databases on each of the integrations.
type Target struct {
	Integrations []string `yaml:"integrations"` // once loaded, with those that Labels choose
	// Labels choose integrations by what is said of them, all that have all of these.
	Labels    map[string]string `yaml:"labels"`
	Databases []string          `yaml:"databases"` // none: each integration's own
	Access    []Access          `yaml:"access"`
}

// Justification is the reason that a request must have.
type Justification struct {
	Required  bool    `yaml:"required"`
	MinLength int     `yaml:"min_length"` // in characters
	Pattern   Pattern `yaml:"pattern"`
	Hint      string  `yaml:"hint"` // what is expected, for a person to read
}

// Pattern is a regular expression of Go's package regexp (RE2), which takes time in proportion to the text.
type Pattern struct{ *regexp.Regexp }

// UnmarshalText compiles the expression.
func (p *Pattern) UnmarshalText(text []byte) error {
	const longest = 1000
	if len(text) > longest {
		return fmt.Errorf("longer than %d bytes", longest)
	}
	var err error
	if p.Regexp, err = regexp.Compile(string(text)); err != nil {
		return fmt.Errorf("want a regular expression: %w", err)
	}
	return nil
}

// Approval is who decides. Count different people of AnyOf together, or of each in AllOf.
type Approval struct {
	None           bool     // written as the word none
	AnyOf          []People `yaml:"any_of"`
	AllOf          []People `yaml:"all_of"`
	Count          int      `yaml:"count"` // 0 means 1
	ReasonRequired bool     `yaml:"reason_required"`
}

// UnmarshalText reads the word none.
func (a *Approval) UnmarshalText(text []byte) error {
	if string(text) != "none" {
		return errors.New("want none, or a mapping with any_of or all_of")
	}
	a.None = true
	return nil
}

// AutoApproval is a rule under which nobody needs to decide.
type AutoApproval struct {
	When   *Window  `yaml:"when"`   // nil: always
	Access []Access `yaml:"access"` // none: all that the flow has
	Users  []string `yaml:"users"`  // with Groups: who; none of both: all requestors
	Groups []string `yaml:"groups"`
}

// ExtensionRules say how often, and by how much at a time, a grant can be made longer.
type ExtensionRules struct {
	Max      int               `yaml:"max"`
	Duration time.Duration     `yaml:"duration"` // of each, at most; 0: the flow's max_duration
	Approval ExtensionApproval `yaml:"approval"`
}

// ExtensionApproval is who decides about an extension: the same as about the request, or nobody.
type ExtensionApproval string

// The values of ExtensionApproval; the zero value means SameApproval.
const (
	SameApproval ExtensionApproval = "same"
	NoApproval   ExtensionApproval = "none"
)

// UnmarshalText reads same or none.
func (e *ExtensionApproval) UnmarshalText(text []byte) error {
	switch v := ExtensionApproval(text); v {
	case SameApproval, NoApproval:
		*e = v
		return nil
	}
	return fmt.Errorf("want same or none, got %q", shorten(string(text)))
}

// BreakGlass lets some people in at once, for a short time and with noise. Each use owes a review by somebody else, and
// until it is given the person has no other.
type BreakGlass struct {
	Users       []string      `yaml:"users"`
	Groups      []string      `yaml:"groups"`
	MaxDuration time.Duration `yaml:"max_duration"`
	Notify      []string      `yaml:"notify"` // groups, named in notifications
	ReviewBy    []People      `yaml:"review_by"`
}

func (b *BreakGlass) people() People { return People{Users: b.Users, Groups: b.Groups} }

// Settings are what a grant made under the flow has besides. They mean what they mean in a Grant.
type Settings struct {
	MaxSessions       int           `yaml:"max_sessions"`
	StatementTimeout  time.Duration `yaml:"statement_timeout"`
	IdleInTransaction time.Duration `yaml:"idle_in_transaction_session_timeout"`
	LockTimeout       time.Duration `yaml:"lock_timeout"`
	KeepObjectsAs     string        `yaml:"keep_objects_as"`
}

// needed is the number of approvals of one group of deciders.
func (a *Approval) needed() int { return max(a.Count, 1) }

// atOnce reports whether nobody decides.
func (f *Flow) atOnce() bool { return f.Approval == nil || f.Approval.None }

// defaultDuration is what is asked for where nothing else is said.
func (f *Flow) defaultDuration() time.Duration {
	if f.Duration > 0 {
		return f.Duration
	}
	return f.MaxDuration
}

// longestTTL bounds how long an undecided request waits; defaultTTL is for flows that don't say.
const (
	defaultTTL = 24 * time.Hour
	longestTTL = 30 * 24 * time.Hour
	// longestGrant bounds every duration of a flow: what is needed for longer is a grant in the policy.
	longestGrant = 366 * 24 * time.Hour
)

// TTL is how long a request under the flow waits for a decision.
func (f *Flow) TTL() time.Duration {
	if f.RequestTTL > 0 {
		return f.RequestTTL
	}
	return defaultTTL
}
