package access

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/wholefile"
	"github.com/hourgate/hourgate/policy"
)

// lockPoll is how soon an edited lock file is noticed.
const lockPoll = 250 * time.Millisecond

// lockFile is what a lock file holds.
type lockFile struct {
	Locks []Lock `json:"locks"`
}

func readLocks(file string) ([]Lock, error) {
	var f lockFile
	if err := wholefile.Read(file, &f); err != nil {
		return nil, err
	}
	for _, l := range f.Locks {
		if !slices.Contains(policy.LockKinds, l.Kind) {
			return nil, errors.New("reading " + file + ": kind is none of user, grant, integration, all")
		}
	}
	return f.Locks, nil
}

// Lock sets a lock. It holds on this machine at once, whatever the state of the store; everywhere says that it was kept in
// the store too, so that it holds on all gates.
func (s *Service) Lock(ctx context.Context, who Actor, lock policy.Lock) (everywhere bool, err error) {
	now := s.now()
	lock.Reason = spoken(lock.Reason)
	switch {
	case !who.Operator:
		return false, errOperator
	case lock.Reason == "":
		return false, &Refused{Message: "a lock needs a reason, which those are told who are locked out", Hint: "Add REASON '…'."}
	case !lock.Until.IsZero() && !now.Before(lock.Until):
		return false, refused("a lock that has ended locks nothing")
	case !lock.Until.IsZero() && lock.Until.After(now.Add(maxLock)):
		return false, &Refused{Message: "a lock with an end holds for a year at most", Hint: "Leave the end out to lock until it is lifted."}
	case !s.cfg.Live.Set().Has(lock.Kind, lock.Name):
		return false, refused("there is no %s %q", lock.Kind, shorten(lock.Name))
	}
	if err := checkText("the reason", lock.Reason, maxReason); err != nil {
		return false, err
	}
	l := Lock{Lock: lock, By: who.Name, At: now}
	s.record(audit.LockSet, l)
	number := s.setLocal(l, true)
	defer func() {
		if err := s.lockFile.Wait(number); err != nil {
			// It holds as long as this process does, which tries to write it again.
			s.log.Error("the lock file can't be written", "error", err)
		}
	}()
	if s.cfg.Store == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := s.cfg.Store.Lock(ctx, l, s.announceLock(string(audit.LockSet))); err != nil {
		s.log.Error("a lock holds on this machine only: the state can't be reached", "lock", l.String(), "error", err)
		return false, nil
	}
	s.mu.Lock()
	s.handedOver = append(s.handedOver, l)
	s.mu.Unlock()
	s.refreshNow(ctx)
	return true, nil
}

// release drops local locks that the store has taken over, once they have been read from there: never before, so that there is no
// moment without them, also when the store is lost right after it has taken them.
func (s *Service) release() {
	s.mu.Lock()
	var read []Lock
	s.handedOver = slices.DeleteFunc(s.handedOver, func(l Lock) bool {
		there := slices.ContainsFunc(s.snapshot.Locks, func(o Lock) bool { return o.Kind == l.Kind && o.Name == l.Name && !o.At.Before(l.At) })
		if there {
			read = append(read, l)
		}
		return there
	})
	s.mu.Unlock()
	for _, l := range read {
		s.setLocal(l, false) // if that can't be written, it goes on holding after a restart, as a lock of this machine
	}
}

// Unlock lifts a lock.
func (s *Service) Unlock(ctx context.Context, who Actor, kind LockKind, name string) error {
	if !who.Operator {
		return errOperator
	}
	l := Lock{Lock: policy.Lock{Kind: kind, Name: name}, By: who.Name, At: s.now()}
	s.mu.Lock()
	there := slices.ContainsFunc(s.locks(), func(o Lock) bool { return o.Kind == kind && o.Name == name })
	kept := slices.ContainsFunc(s.snapshot.Locks, func(o Lock) bool { return o.Kind == kind && o.Name == name })
	s.mu.Unlock()
	if !there {
		return refused("%s is not locked", l)
	}
	if !s.record(audit.LockLifted, l) {
		return s.storeError(errTrail)
	}
	if kept {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		err := s.cfg.Store.Unlock(ctx, kind, name, s.announceLock(string(audit.LockLifted)))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return s.storeError(err)
		}
		s.refreshNow(ctx)
	}
	if err := s.lockFile.Wait(s.setLocal(l, false)); err != nil {
		s.log.Error("the lock file can't be written", "error", err)
		return &Refused{Message: fmt.Sprintf("%s is not locked any more, but will be when the gate starts again: the lock file can't be written", l), Hint: "Mend the disk that holds the trail; the file is written as soon as it can be."}
	}
	return nil
}

// Locks are those in force, those of this machine last.
func (s *Service) Locks() []Lock {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.storeTime()
	return slices.DeleteFunc(s.locks(), func(l Lock) bool { return !l.Until.IsZero() && !now.Before(l.Until) })
}

var errOperator = &Refused{
	Message: "only operators may do this",
	Hint:    "The policy says who they are, under operators; on the machine of the gate there is the admin socket.",
}

// setLocal puts a lock in force on this machine, or takes it away. It returns the number of what the lock file is to hold.
func (s *Service) setLocal(l Lock, on bool) (number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.local)
	s.local = slices.DeleteFunc(slices.Clone(s.local), func(o Lock) bool { return o.Kind == l.Kind && o.Name == l.Name })
	if on {
		s.handedOver = slices.DeleteFunc(s.handedOver, func(o Lock) bool { return o.Kind == l.Kind && o.Name == l.Name })
	}
	if !on && len(s.local) == before {
		return 0
	}
	if on {
		s.local = append(s.local, l)
	}
	s.force()
	return s.lockFile.Put(lockFile{s.local})
}

func (s *Service) record(e audit.Event, l Lock) bool {
	r := audit.Record{Event: e, Detail: map[string]string{"lock": string(l.Kind), "name": l.Name}}
	r.User, r.Until, r.Reason = l.By, l.Until, l.Reason
	if err := s.cfg.Trail.Append(r); err != nil {
		s.metrics.trailErrors.Inc()
		s.log.Error("a lock can't be recorded", "event", string(e), "error", err)
		return false
	}
	return true
}

func (s *Service) announceLock(kind string) Announce[Lock] {
	return func(l Lock) ([]Message, error) {
		n := Notice{Lock: l.String(), By: l.By, Reason: l.Reason}
		if !l.Until.IsZero() {
			n.Until = &l.Until
		}
		return s.messages(kind, n)
	}
}

// watchLocks follows the lock file, which works without anything else: not the store, not a log-in.
func (s *Service) watchLocks(ctx context.Context) {
	if s.cfg.LockFile == "" {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	seen := s.lockFileChange()
	bad := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		change := s.lockFileChange()
		if change == seen && !bad {
			s.lockFile.Again()
			continue
		}
		taken, err := s.readLocal()
		if taken {
			seen = change
		}
		if err != nil && !bad {
			s.log.Error("the lock file can't be read, the locks in force stay", "error", err)
		}
		bad = err != nil
	}
}

// readLocal puts in force what the lock file says. It is for later if we are writing the file ourselves: then the file lacks what
// is in force already.
func (s *Service) readLocal() (taken bool, err error) {
	number, busy, failed := s.lockFile.State()
	if busy {
		return false, nil
	}
	local, err := readLocks(s.cfg.LockFile) // without the mutex: a disk may hold it up
	if err != nil {
		return true, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, _, _ := s.lockFile.State(); now != number {
		return false, nil
	}
	if len(local) == 0 && len(s.local) > 0 && s.lockFileChange() == "" {
		// Whoever removes a folder, or unmounts a disk, does not mean to let people in.
		s.log.Error("the lock file was removed: its locks stay in force, and it is written again; UNLOCK lifts them", "file", s.cfg.LockFile, "locks", len(s.local))
		s.lockFile.Put(lockFile{s.local})
		return true, nil
	}
	if failed { // what the file lacks was never lifted
		for _, l := range s.local {
			if !slices.ContainsFunc(local, func(o Lock) bool { return o.Kind == l.Kind && o.Name == l.Name }) {
				local = append(local, l)
			}
		}
		s.lockFile.Put(lockFile{local})
	}
	s.local = local
	s.force()
	return true, nil
}

// lockFileChange tells one version of the file from another.
func (s *Service) lockFileChange() string {
	info, err := os.Stat(s.cfg.LockFile)
	if err != nil {
		return ""
	}
	return info.ModTime().String() + " " + itoa(info.Size())
}

// shorten keeps what others chose from filling a line.
func shorten(text string) string {
	const longest = 64
	if len(text) <= longest {
		return text
	}
	return text[:longest] + "…"
}

// Killing records that somebody is about to end a session.
func (s *Service) Killing(who Actor, session, user string) {
	r := audit.Record{Event: audit.SessionKilled, Detail: map[string]string{"by": who.Name}}
	r.Session, r.User = session, user
	if err := s.cfg.Trail.Append(r); err != nil {
		s.metrics.trailErrors.Inc()
		s.log.Error("the end of a session can't be recorded; it is ended all the same", "error", err)
	}
}
