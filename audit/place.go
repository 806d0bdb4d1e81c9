package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hourgate/hourgate/internal/descriptors"
)

// The spool is in memory that no disk backs, /dev/shm as a rule: a thread that touches a page of a frozen file system
// sleeps in the kernel where Go's runtime can't preempt it, and everything else in the process waits for it. Next to the
// trail, under its name with the suffix ".spool", a symbolic link says where the spool is: it tells the next process what
// to recover, and is there for as long as nobody has. Where there is no such memory, the spool itself has that name.

const memoryFolder = "/dev/shm"

// spoolPath is the name next to the trail.
func (t *Trail) spoolPath() string { return t.path + ".spool" }

// spoolTarget is where the spool of an earlier process is, "" when there is none any more.
func (t *Trail) spoolTarget() (string, error) {
	target, err := os.Readlink(t.spoolPath())
	switch {
	case errors.Is(err, syscall.EINVAL): // no link
		target = t.spoolPath()
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case !filepath.IsAbs(target):
		target = filepath.Join(filepath.Dir(t.path), target)
	}
	if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	return target, nil
}

// spoolFolder chooses where a new spool goes.
func (t *Trail) spoolFolder() string {
	own := filepath.Dir(t.path)
	switch {
	case t.opts.SpoolFolder != "":
		return t.opts.SpoolFolder
	case inMemory(own):
		return own
	case inMemory(memoryFolder):
		return memoryFolder
	}
	t.log.Warn("the spool is on a disk: one that stalls stops the gate. Set a folder in memory for it", "folder", own)
	return own
}

// makeSpool makes the spool of this process. replace says that what has the spool's name is of no use any more.
func (t *Trail) makeSpool(start uint64, replace bool) (_ *spool, err error) {
	defer descriptors.Borrow()()
	size := t.opts.Spool
	if size == 0 {
		size = DefaultSpool
	}
	folder := t.spoolFolder()
	if filepath.Clean(folder) != filepath.Dir(t.path) {
		return t.makeLinkedSpool(folder, size, start)
	}
	if info, err := os.Lstat(t.spoolPath()); err == nil && (replace || info.Mode()&os.ModeSymlink != 0 || info.Size() < spoolHeader) {
		if err := os.Remove(t.spoolPath()); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(t.spoolPath(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return finishSpool(f, size, start, func() error { return nil })
}

// makeLinkedSpool makes a spool in another folder, under a name that nobody can guess: everybody may write to /dev/shm.
func (t *Trail) makeLinkedSpool(folder string, size int64, start uint64) (*spool, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(folder, "hourgate-*.spool")
	if err != nil {
		return nil, err
	}
	return finishSpool(f, size, start, func() error { return t.link(f.Name()) })
}

// link makes the name next to the trail lead to a spool.
func (t *Trail) link(path string) error {
	next := t.spoolPath() + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(path, next); err != nil {
		return err
	}
	return os.Rename(next, t.spoolPath())
}

// finishSpool makes a spool of a file and publishes it, or takes the file away again.
func finishSpool(f *os.File, size int64, start uint64, publish func() error) (_ *spool, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()), f.Close())
		}
	}()
	if err := lock(f); err != nil {
		return nil, err
	}
	s, err := newSpool(f, size, start)
	if err != nil {
		return nil, err
	}
	return s, publish()
}

// remove takes the spool's file and its name away, after everything in it has been moved into the trail.
func (s *spool) remove(name string) error {
	err := os.Remove(name)
	if s.path != name {
		err = errors.Join(err, os.Remove(s.path))
	}
	if errors.Is(err, os.ErrNotExist) { // somebody else did
		return nil
	}
	return err
}

// leave gives the memory up, once nobody is between taking and sealing slots any more. Memory whose file was cut short
// stays where it is: whoever took slots in it never seals them.
func (s *spool) leave() error {
	end := s.head.Load() &^ spoolClosed
	for slot := s.drained; slot < end; {
		var n uint64
		err := s.guard(func() error {
			n = s.sealed(slot)
			for tries := 0; n == 0; tries++ {
				if s.bad.Load() || tries > manyTries {
					return errSpoolGone
				}
				pause(tries)
				n = s.sealed(slot)
			}
			return nil
		})
		if err != nil {
			return closeLocked(s.file)
		}
		slot += n
	}
	return s.close()
}

// lookAfterSpool replaces a spool that was removed, moved, cut short or damaged. What can still be read of it gets into
// the trail, and a record says what happened.
func (t *Trail) lookAfterSpool() error {
	s := t.spool.Load()
	if s == nil {
		return nil
	}
	what := "damaged"
	if !s.bad.Load() {
		var err error
		if what, err = t.spoolState(s); err != nil || what == "" {
			return err
		}
	}
	t.log.Error("the spool is not what it was, another one is made", "file", s.path, "what", what)
	next, err := t.makeSpool(firstSlot(s.head.Load()&^spoolClosed+s.slots), true)
	if err != nil {
		return fmt.Errorf("making another spool, since the old one is %s: %w", what, err)
	}
	t.spool.Store(next)
	end := s.head.Or(spoolClosed) &^ spoolClosed // nobody takes slots of it from here on
	if err := t.moveOld(s, end); err != nil {
		return err
	}
	if s.path != next.path {
		_ = os.Remove(s.path) // it may be gone
	}
	err = t.writeRecord(Record{
		Event:  TrailRecovered,
		Detail: map[string]string{"spool": what, "slots_lost": fmt.Sprint(end - min(s.drained, end))},
		Error:  "the spool was " + what + " while it was in use",
	})
	return errors.Join(err, s.leave())
}

// moveOld moves what is in an old spool into the trail, or as much of it as can be read.
func (t *Trail) moveOld(s *spool, end uint64) error {
	err := t.drainSpool(s)
	if !s.bad.Load() {
		return err
	}
	err = s.guard(func() error { return t.moveRest(s) })
	if errors.Is(err, errSpoolGone) {
		return nil
	}
	s.drained = min(s.drained, end)
	return err
}

// spoolState says what became of a spool's file, "" if nothing.
func (t *Trail) spoolState(s *spool) (string, error) {
	info, err := s.file.Stat()
	if err != nil {
		return "", err
	}
	if info.Size() < int64(len(s.mem)) {
		s.bad.Store(true)
		return "cut short", nil
	}
	if same, err := isAt(s.file, s.path); err != nil {
		return "", err
	} else if !same {
		return "removed", nil
	}
	if s.path == t.spoolPath() {
		return "", nil
	}
	if target, err := os.Readlink(t.spoolPath()); err != nil || target != s.path {
		return "", t.link(s.path) // only its name was taken away
	}
	return "", nil
}
