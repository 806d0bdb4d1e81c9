package settle

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// TombstoneError is a role without power that can't be dropped while others hold on to what is left of it.
type TombstoneError struct {
	Role   string
	HeldBy []string // pg_describe_object's words, and what resisted
}

func (e *TombstoneError) Error() string {
	return fmt.Sprintf("role %s is disabled but can't be dropped, it is held by: %s", e.Role, strings.Join(e.HeldBy, "; "))
}

// resistError is a role that is not settled yet, because pieces resist that another try may get past.
type resistError struct {
	role   string
	pieces []piece
}

func (e *resistError) Error() string {
	words := make([]string, len(e.pieces))
	for i, p := range e.pieces {
		words[i] = p.String()
	}
	return fmt.Sprintf("role %s is not settled: %s", e.role, strings.Join(words, "; "))
}

// Unwrap returns why each piece resists.
func (e *resistError) Unwrap() []error {
	errs := make([]error, len(e.pieces))
	for i, p := range e.pieces {
		errs[i] = p.Err
	}
	return errs
}

// told returns err, and raises the alarm for a statement that the server can't read, or that means something else than was
// meant: that is a bug of ours, and nobody but us can mend it.
func (st *Settler) told(err error) error {
	if code := admin.SQLState(err); code == pgerrcode.SyntaxError {
		st.cfg.Metrics.Bugs.Inc()
		st.cfg.Log.Error("the server does not understand a statement of hourgate: please report this bug", "error", err)
	}
	return err
}

// failure is what was last told of a role that is not settled.
type failure struct {
	why   string
	tries int // with the same outcome
}

// trailPatience is how long telling of a failure may hold up the next try.
const trailPatience = time.Second

// tell writes that a try failed, the first time and whenever the reason is another. Ending access does not wait for the trail.
func (st *Settler) tell(r ledger.Role, err error) {
	st.mu.Lock()
	known := st.failures[r.OID]
	if err == nil {
		delete(st.failures, r.OID)
		delete(st.guests, r.OID)
		delete(st.held, r.OID)
		st.mu.Unlock()
		return
	}
	now := failure{why: reason(err), tries: known.tries + 1}
	changed := now.why != known.why
	if changed {
		now.tries = 1
	}
	st.failures[r.OID] = now
	st.mu.Unlock()
	if !changed {
		return
	}
	event := audit.RoleSettleFailed
	var tombstone *TombstoneError
	if errors.As(err, &tombstone) {
		event = audit.RoleTombstoned
	}
	appended := st.append(st.record(event, r, func(rec *audit.Record) {
		rec.Error = err.Error()
		if tombstone != nil {
			rec.Error, rec.HeldBy = "", tombstone.HeldBy
		}
		var resist *resistError
		if errors.As(err, &resist) {
			for _, p := range resist.pieces {
				rec.HeldBy = append(rec.HeldBy, p.What)
			}
			rec.HeldBy = capped(rec.HeldBy)
		}
		if known.tries > 0 {
			rec.Detail = map[string]string{"tries_before": fmt.Sprint(known.tries), "reason_before": known.why}
		}
	}))
	if appended != nil {
		st.cfg.Log.Error("a try at settling a role could not be recorded", "role", r.Name, "error", appended)
	}
}

// reason is what makes one failure the same as another: what resists and with which SQLSTATE, not which process holds it.
func reason(err error) string {
	var resist *resistError
	var tombstone *TombstoneError
	switch {
	case errors.As(err, &tombstone):
		return strings.Join(tombstone.HeldBy, "; ")
	case errors.As(err, &resist):
		words := make([]string, len(resist.pieces))
		for i, p := range resist.pieces {
			words[i] = p.What + " " + admin.SQLState(p.Err)
		}
		return strings.Join(words, "; ")
	}
	if code := admin.SQLState(err); code != "" {
		return code
	}
	return err.Error()
}

var (
	// errTrail is a trail that does not take a record now. It will, once its disk has room or answers again.
	errTrail = errors.New("writing the record")
	// errTrailBusy is one that does not answer: the record may or may not be written later.
	errTrailBusy = errors.New("the trail does not answer")
)

// append writes a record, but does not wait for a trail that is stuck longer than trailPatience.
func (st *Settler) append(r audit.Record) error {
	timer := time.NewTimer(trailPatience)
	defer timer.Stop()
	busy := fmt.Errorf("%w: %w", errTrail, errTrailBusy)
	select {
	case st.writing <- struct{}{}:
	case <-timer.C:
		return busy
	}
	written := make(chan error, 1)
	go func() {
		written <- st.cfg.Trail.Append(r)
		<-st.writing
	}()
	select {
	case err := <-written:
		if err != nil {
			err = fmt.Errorf("%w: %w", errTrail, err)
		}
		return err
	case <-timer.C:
		return busy
	}
}
