package access

import (
	"context"
	"errors"
	"fmt"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/wholefile"
)

// A mark is how far the store had come when this gate looked last. It is kept beside the trail and not in the store, so
// that a store which was restored from a copy is known by being behind it. What has been granted, ended and locked since
// the copy was made can't be known then: all open requests are ended, numbers go on above those that were given, and locks
// that are missing are set again.
//
// A copy that others have gone on with, until it was as far as the mark again, is known by the token of the mark's change: no other
// history has it.
//
// What this promises: a gate that has seen a change never again believes a store that lacks it, unless more than 10,000 changes have
// been made to the copy meanwhile. It promises nothing for a change that no running gate had seen, nothing to a gate whose mark was
// restored together with the store, and nothing to a gate that was killed before the mark was on its disk.
type mark struct {
	Revision int64  `json:"revision"`
	Token    string `json:"token,omitempty"`
	LastID   int64  `json:"last_id"`
	Locks    []Lock `json:"locks"`
}

func readMark(file string) (mark, error) {
	var m mark
	return m, wholefile.Read(file, &m)
}

// remember moves the mark to a snapshot that is newer. refresh calls it, one at a time, after the snapshot was put in force: the
// snapshot may end access, and the mark's disk may not answer. Who wants the mark to be written waits for the number.
func (s *Service) remember(snapshot *Snapshot) (number uint64) {
	if snapshot.Revision <= s.mark.Revision {
		return 0
	}
	s.mark = mark{snapshot.Revision, snapshot.Token, snapshot.LastID, snapshot.Locks}
	return s.marks.Put(s.mark)
}

// another reports whether the store has another history than the one in which the mark was made.
func (s *Service) another(ctx context.Context, snapshot *Snapshot) (bool, error) {
	switch {
	case snapshot.Revision < s.mark.Revision:
		return true, nil
	case s.mark.Token == "":
		return false, nil // nothing is known of it
	case snapshot.Revision == s.mark.Revision && snapshot.Token == s.mark.Token:
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	h, err := s.cfg.Store.History(ctx, s.mark.Revision)
	// What was restored after the mark has ended all that was open, whichever history it was of.
	return err == nil && h.Token != s.mark.Token && h.Restored <= s.mark.Revision && s.mark.Revision >= h.Oldest, err
}

// restored ends what a store that is behind the mark, or has another history, believes in.
func (s *Service) restored(ctx context.Context, snapshot *Snapshot) error {
	s.log.Error("the state lacks what was seen of it: a copy was restored, so all requests are ended",
		"revision", snapshot.Revision, "seen", s.mark.Revision)
	s.metrics.restored.Inc()
	if err := s.cfg.Trail.Append(audit.Record{Event: audit.StateRestored, Detail: map[string]string{
		"revision": itoa(snapshot.Revision), "seen": itoa(s.mark.Revision), "open_requests": fmt.Sprint(len(snapshot.Open)),
	}}); err != nil {
		s.metrics.trailErrors.Inc()
		s.log.Error("the restoring of the state can't be recorded", "error", err)
	}
	now := s.now()
	err := s.cfg.Store.Restore(ctx, max(s.mark.Revision, snapshot.Revision+1), s.mark.LastID, s.mark.Locks, func(r *Request) {
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
