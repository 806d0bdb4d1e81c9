package access

import (
	"context"
	"errors"
	"fmt"

	"github.com/hourgate/hourgate/audit"
)

// A mark is how far the store had come when this gate looked last. It is kept beside the trail and not in the store, so
// that a store which was restored from a copy is known by being behind it. What has been granted, ended and locked since
// the copy was made can't be known then: all open requests are ended, numbers go on above those that were given, and locks
// that are missing are set again.
//
// What this promises: a gate that has seen a change never again believes a store that lacks it. It promises nothing for a
// change that no running gate had seen, and nothing to a gate whose mark was restored together with the store.
type mark struct {
	Revision int64  `json:"revision"`
	LastID   int64  `json:"last_id"`
	Locks    []Lock `json:"locks"`
}

func readMark(file string) (mark, error) {
	var m mark
	return m, readFile(file, &m)
}

// remember moves the mark to a snapshot that is newer. Refresh calls it, one at a time.
func (s *Service) remember(snapshot *Snapshot) error {
	if snapshot.Revision <= s.mark.Revision {
		return nil
	}
	m := mark{snapshot.Revision, snapshot.LastID, snapshot.Locks}
	if err := writeFile(s.cfg.MarkFile, m); err != nil {
		return fmt.Errorf("writing down how far the state has come: %w", err)
	}
	s.mark = m
	return nil
}

// restored ends what a store that is behind the mark believes in.
func (s *Service) restored(ctx context.Context, snapshot *Snapshot) error {
	s.log.Error("the state is older than what was seen of it: a copy was restored, so all requests are ended",
		"revision", snapshot.Revision, "seen", s.mark.Revision)
	s.metrics.restored.Inc()
	if err := s.cfg.Trail.Append(audit.Record{Event: audit.StateRestored, Detail: map[string]string{
		"revision": itoa(snapshot.Revision), "seen": itoa(s.mark.Revision), "open_requests": fmt.Sprint(len(snapshot.Open)),
	}}); err != nil {
		s.metrics.trailErrors.Inc()
		s.log.Error("the restoring of the state can't be recorded", "error", err)
	}
	now := s.now()
	err := s.cfg.Store.Restore(ctx, s.mark.Revision, s.mark.LastID, s.mark.Locks, func(r *Request) {
		const why = "the state was restored from a copy"
		if r.stop(Restored, now, "", why) != nil { // it is pending
			r.State, r.EndWhy = Lapsed, why
		}
	})
	if errors.Is(err, ErrConflict) {
		return nil // another gate was faster
	}
	return err
}
