package settle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// Config is what a Settler needs to know. All fields are required.
type Config struct {
	Integration string // name, for records
	Deployment  string // whose profiles of named objects these are
	Pool        *admin.Pool
	Trail       Trail
	Log         *slog.Logger
	Metrics     Metrics
}

// Trail takes records before the act; *audit.Trail is one.
type Trail interface {
	Append(audit.Record) error
}

// Settler settles the ephemeral roles of one integration. It is safe for concurrent use.
type Settler struct {
	cfg   Config
	fresh lane // ends that come for the first time
	again lane // ends that are tried again

	writing chan struct{} // bounds the records that a trail that is stuck keeps waiting

	mu       sync.Mutex
	failures map[uint32]failure         // by the role's OID
	insiders map[insider]time.Time      // that were recorded
	guests   map[uint32][]string        // who was a member of a role that is not settled yet, by its OID
	held     map[uint32]map[string]bool // what such a role was a member of

	scrubbing sync.Mutex
	scrubbed  map[string]time.Time // roles, and when the last scrub of each began; belongs to scrubbing

	evicting sync.Mutex // held while groups are rid of what members left with them
}

// New returns a Settler, which talks to the server only when it is asked to.
func New(cfg Config) *Settler {
	st := &Settler{
		cfg:      cfg,
		writing:  make(chan struct{}, poolRecords),
		failures: make(map[uint32]failure),
		insiders: make(map[insider]time.Time),
		guests:   make(map[uint32][]string),
		held:     make(map[uint32]map[string]bool),
		scrubbed: make(map[string]time.Time),
	}
	st.fresh = lane{st: st, use: cfg.Pool.Urgent}
	st.again = lane{st: st, use: cfg.Pool.Use}
	return st
}

// End is one role that ends.
type End struct {
	Role ledger.Role

	// Told is closed once the role's sessions have told their clients why they end, or have had the time to. Optional: nil ends
	// them at once.
	Told <-chan struct{}

	// Comment is the ledger's text by which it was decided that the role ends. The role is left alone, with ErrTaken, if it says
	// something else by now: another process has taken it over, or its grant was prolonged. Empty for a role of this process.
	Comment string

	// Elsewhere is called when the role's power is taken, and before anything is removed: sessions on other servers can be
	// terminated only while the role exists. It has to be bounded. Optional.
	Elsewhere func(ctx context.Context)

	// Once says that whoever asks will ask again: there is one try.
	Once bool
}

// poolRecords is how many records may wait for a trail at once.
const poolRecords = 64

// errAway is a server that can't be reached, or logged in to, for whatever reason. It may be there the next second.
var errAway = errors.New("no connection to the server")

// ErrTaken is returned by Settle for an orphan that another process has taken over.
var ErrTaken = errTaken

const (
	retryPause = time.Second      // between two tries while somebody's lock or a lost connection is in the way
	tryLimit   = 30 * time.Second // of one try
)

// Settle ends a role. First its power is taken, together with that of others that end at the same time; then what it left is
// removed, piece by piece. What fails because of locks, connections or the trail is tried again each second until ctx is done. A
// [TombstoneError] says that others hold on to what is left; that is not tried again here.
func (st *Settler) Settle(ctx context.Context, x End) error {
	l := &st.fresh
	for first := true; ; first = false {
		began := time.Now()
		powerless, err := st.try(ctx, x, l)
		if errors.Is(err, ErrTaken) {
			return err
		}
		if errors.Is(err, errAtOnce) || first && !powerless { // power can't wait, whatever the reason
			l, x.Told = &st.again, nil
			continue
		}
		st.cfg.Metrics.settled(err, time.Since(began))
		st.tell(x.Role, err)
		if err == nil || x.Once || !passes(err) || admin.Pause(ctx, retryPause) != nil {
			return err
		}
		l, x.Told = &st.again, nil
	}
}

// Disarm takes a role's power, and leaves what else its end needs to a later Settle: for who can record nothing. It is one try.
func (st *Settler) Disarm(x End) error {
	e := &end{role: x.Role, told: x.Told, decided: x.Comment}
	st.again.close(e)
	if e.taken {
		return ErrTaken
	}
	return e.err
}

// passes reports whether any of an error's causes is one that another try soon may get past.
func passes(err error) bool {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(several.Unwrap(), passes)
	}
	if one := errors.Unwrap(err); one != nil {
		return passes(one)
	}
	return errors.Is(err, errAway) || admin.Transient(err) || admin.Passing(err) || admin.Exhausted(err) || errors.Is(err, errInside) || errors.Is(err, errVacuum) || errors.Is(err, errTrail) ||
		errors.Is(err, context.DeadlineExceeded) // one try has its limit, which says nothing of the next
}

// try is one try, and says whether the role has lost its power.
func (st *Settler) try(ctx context.Context, x End, l *lane) (powerless bool, err error) {
	began := time.Now()
	e := &end{role: x.Role, told: x.Told, decided: x.Comment}
	l.close(e)
	if e.taken {
		return false, ErrTaken
	}
	st.remember(e)
	if x.Elsewhere != nil {
		x.Elsewhere(ctx)
	}
	var s *settlement
	err = st.cfg.Pool.Use(ctx, func(c *admin.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, tryLimit)
		defer cancel()
		s = newSettlement(st, c, e)
		return s.run(ctx)
	})
	if s == nil { // no connection
		return e.err == nil, errors.Join(e.err, fmt.Errorf("%w: %w", errAway, err))
	}
	st.cfg.Log.Info("role settled", "role", x.Role.Name, "grant", x.Role.Entry.Grant, "user", x.Role.Entry.User,
		"sessions_terminated", e.terminated, "objects_dropped", len(s.dropped), "objects_quarantined", len(s.kept),
		"duration", time.Since(began), "gone", err == nil)
	if err == nil {
		st.removeProfiles(ctx, s.groups)
	}
	return e.err == nil, err
}

// record starts a trail record about a role.
func (st *Settler) record(event audit.Event, r ledger.Role, fill func(*audit.Record)) audit.Record {
	return r.Record(event, st.cfg.Integration, fill)
}
