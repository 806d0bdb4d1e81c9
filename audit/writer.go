package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
)

const (
	// writeDelay is how long a statement waits in the spool at most before the writer moves it into the trail, when the
	// writer can write. It bounds what whoever reads along can miss; it has no part in what survives.
	writeDelay = 200 * time.Millisecond
	retryDelay = time.Second // after a write that failed

	// batchBytes of lines are enough for a write. Between two batches goroutines that can run get the processor; 64 KiB take
	// a quarter of a millisecond. Sessions whose bytes arrive meanwhile wait until the writer is done, on a machine with one
	// core: 2.5 ms each writeDelay with 9,000 statements a second, which one in 2,000 notices. Were the writer to sleep
	// between batches, one in 60 would notice 0.1 ms: p99 of what the gate adds was twice as much.
	batchBytes = 16 << 10
)

// When the writer comes next.
const (
	wakeNever = iota
	wakeSoon  // within writeDelay
	wakeNow
)

func (t *Trail) spoolPath() string { return t.path + ".spool" }

// statement puts a statement where this process's death can't reach it: into the spool, or with Sync onto the disk.
func (t *Trail) statement(_ context.Context, e *entry) error {
	if t.spool == nil {
		return t.writeStatement(e)
	}
	if t.failing.Load() { // what can't get any further is not begun
		if err := t.flush(); err != nil {
			return err
		}
	}
	n := e.size()
	first, err := t.spool.take(n)
	for ; errors.Is(err, errSpoolFull); first, err = t.spool.take(n) {
		if err := t.flush(); err != nil { // the session does the writer's work, and waits that long
			return err
		}
	}
	if err != nil {
		return err
	}
	t.spool.put(first, n, e)
	t.call(first + n)
	return nil
}

// call sees to it that the writer comes, after slots up to end were filled.
func (t *Trail) call(end uint64) {
	wake := t.wake.Load()
	switch {
	case wake == wakeNow:
	case end+t.spool.slots/2 > t.spool.limit.Load():
		if t.wake.CompareAndSwap(wake, wakeNow) {
			t.timer.Reset(0)
		}
	case wake == wakeNever:
		if t.wake.CompareAndSwap(wake, wakeSoon) {
			t.timer.Reset(writeDelay)
		}
	}
}

// writeSpool is the writer. The timer runs it in a goroutine of its own, and only when there is something to write.
// wake is reset first: whoever seals a record after this has looked calls again.
func (t *Trail) writeSpool() {
	t.wake.Store(wakeNever)
	if err := t.flush(); err != nil && !errors.Is(err, ErrClosed) && t.wake.CompareAndSwap(wakeNever, wakeSoon) {
		t.timer.Reset(retryDelay) // the callers are told: see failing
	}
}

func (t *Trail) flush() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drain()
}

// drain moves what was put into the spool before now into the trail. The caller holds mu.
func (t *Trail) drain() error {
	if t.file == nil {
		return ErrClosed
	}
	if t.spool == nil {
		return nil
	}
	end := t.spool.head.Load() &^ spoolClosed
	for slot := t.spool.word(wordDrained).Load(); slot < end; {
		next, err := t.drainSome(slot, end)
		if err != nil {
			t.failing.Store(true)
			return err
		}
		slot = next
		runtime.Gosched()
	}
	if t.failing.Load() {
		t.failing.Store(false)
	}
	return nil
}

// drainSome moves a batch. Its steps are in this order so that a death between any two of them neither loses nor
// doubles a statement: while the lines are in the trail and the spool doesn't know it, the last of them is the trail's
// last whole line, and its statement_number tells the next Open where to go on.
func (t *Trail) drainSome(slot, end uint64) (next uint64, err error) {
	t.batch.begin(t.seq, t.prev)
	for slot < end && len(t.batch.lines) < batchBytes {
		for tries := 0; t.spool.sealed(slot) == 0; tries++ {
			pause(tries)
		}
		e, n, ok := t.spool.read(slot, end)
		if !ok {
			return slot, fmt.Errorf("spool: %w", errSpoolDamaged) // somebody else wrote into it
		}
		t.batch.add(&e)
		slot += n
	}
	if err := t.writeBatch(); err != nil {
		return slot, err
	}
	t.spool.drain(slot)
	t.spool.release()
	return slot, nil
}

// pause waits for a producer that has taken slots and is about to seal them. Only the scheduler can hold it up.
func pause(tries int) {
	if tries < 100 {
		runtime.Gosched()
		return
	}
	time.Sleep(20 * time.Microsecond)
}

// writeBatch appends the batch's lines to the trail, all or none.
func (t *Trail) writeBatch() error {
	if err := t.write(t.batch.lines); err != nil {
		return err
	}
	t.seq, t.prev = t.batch.seq, string(t.batch.prev[:])
	return nil
}

// writeStatement writes one statement to the trail itself.
func (t *Trail) writeStatement(e *entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return ErrClosed
	}
	t.batch.begin(t.seq, t.prev)
	t.batch.add(e)
	return t.writeBatch()
}

// openSpool moves what a dead process has left into the trail, and makes a spool for this one.
func (t *Trail) openSpool(left *spool) error {
	after := uint64(0)
	if left != nil {
		after = left.word(wordFree).Load() + left.slots
		err := t.recoverSpool(left)
		if err == nil {
			err = os.Remove(t.spoolPath())
		}
		if err = errors.Join(err, left.close()); err != nil {
			return fmt.Errorf("recovering spool: %w", err)
		}
	}
	if t.opts.Sync {
		return nil
	}
	size := t.opts.Spool
	if size == 0 {
		size = DefaultSpool
	}
	s, err := makeSpool(t.spoolPath(), size, firstSlot(after))
	if err != nil {
		return fmt.Errorf("making spool: %w", err)
	}
	t.spool = s
	return nil
}

// closeSpool refuses new statements and moves the rest into the trail. What it can't move stays in the spool, for the
// next Open. The caller holds mu.
func (t *Trail) closeSpool() error {
	s := t.spool
	if s == nil {
		return nil
	}
	end := s.head.Or(spoolClosed) &^ spoolClosed
	t.timer.Stop()
	err := t.drain()
	if err == nil {
		err = os.Remove(t.spoolPath())
	}
	for slot := s.word(wordDrained).Load(); slot < end; { // nobody may write to memory that is about to go away
		n := s.sealed(slot)
		for tries := 0; n == 0; tries++ {
			pause(tries)
			n = s.sealed(slot)
		}
		slot += n
	}
	return errors.Join(err, s.close())
}
