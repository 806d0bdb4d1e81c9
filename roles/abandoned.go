package roles

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/settle"
)

// EndAbandoned ends access that a process of the deployment has left on the server, without a record: for a program that can't
// open, or has not yet, because of its own files. No role that nobody answers for can log in after it or has a session, and those
// whose grant is over are members of nothing. The rest of their ends, with its records, is the next gate's, which finds them.
//
// It returns when nothing is left that it would end soon, or when the server can't be reached; with stay, once ctx is done.
func (k *Keeper) EndAbandoned(ctx context.Context, stay bool) error {
	for first := true; ; first = false {
		waits, err := k.sweeper.endAbandoned(ctx)
		if waits && first {
			k.log.Warn("another process has sessions on the server and does not show up there, waiting for it before they are ended", "at_most", suspectGrace)
		}
		switch {
		case stay && err != nil && ctx.Err() == nil:
			k.log.Warn("access that another process has left can't be ended now, trying again", "error", err)
		case !stay && (err != nil || !waits):
			return err
		}
		if admin.Pause(ctx, clockCheck) != nil {
			return err
		}
	}
}

// endAbandoned looks once. waits says that there is a role which is nobody's if its process does not show up soon.
func (s *sweeper) endAbandoned(ctx context.Context) (waits bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	found, err := readLedger(ctx, s.k.pool)
	if err != nil {
		return false, err
	}
	s.dropSuspects(found)
	var ending sync.WaitGroup
	errs := make([]error, len(found))
	for i, o := range found {
		if !o.CanLogin && o.Sessions == 0 {
			continue // it sleeps, or has ended
		}
		role, ok := s.orphaned(o, liveRoles{})
		if !ok {
			waits = waits || s.suspect(o.Name)
			continue
		}
		ending.Go(func() { errs[i] = s.endOne(ctx, role, o) })
	}
	ending.Wait()
	return waits, errors.Join(errs...)
}

func (s *sweeper) suspect(name string) bool {
	_, suspect := s.suspects[name]
	return suspect
}

// endOne puts a role to sleep that owns something under a grant that may still live, and takes all power from any other.
func (s *sweeper) endOne(ctx context.Context, role ledger.Role, o orphan) error {
	k := s.k
	asleep := false
	if k.heirs(role.Entry) != nil && o.Now.Before(role.Entry.Until) {
		var err error
		if asleep, err = ownsAnything(ctx, k.pool, role); err != nil {
			return err
		}
	}
	var err error
	if asleep {
		entry := role.Entry
		entry.Proxy = ""
		err = disable(ctx, k.pool, role, entry)
	} else {
		err = k.settler.Disarm(settle.End{Role: role, Comment: o.Comment})
	}
	if errors.Is(err, errTaken) || errors.Is(err, settle.ErrTaken) {
		return nil
	}
	if err != nil {
		k.log.Error("access that another process has left could not be ended", "role", role.Name, "grant", role.Entry.Grant, "error", err)
		return err
	}
	k.log.Warn("ended access that another process has left", "role", role.Name, "grant", role.Entry.Grant, "user", role.Entry.User,
		"until", role.Entry.Until.Format(time.RFC3339))
	return nil
}
