package audit

import (
	"fmt"
	"runtime"
	"time"
)

// drain moves what was put into the spool before now into the trail.
func (t *Trail) drain() error {
	if t.misplaced != nil {
		return t.misplaced
	}
	s := t.spool.Load()
	if s == nil {
		return nil
	}
	return t.drainSpool(s)
}

func (t *Trail) drainSpool(s *spool) error {
	end := s.head.Load() &^ spoolClosed
	for slot := s.drained; slot < end; {
		err := s.guard(func() (err error) {
			slot, err = t.drainSome(s, slot, end)
			return err
		})
		if err != nil {
			return err
		}
		t.answers()
		runtime.Gosched()
	}
	return nil
}

// drainSome moves a batch. Its steps are in this order so that a death between any two of them neither loses nor
// doubles a statement: while the lines are in the trail and the spool doesn't know it, the last of them is the trail's
// last whole line, and its statement_number tells the next Open where to go on.
func (t *Trail) drainSome(s *spool, slot, end uint64) (next uint64, err error) {
	t.batch.begin(t.seq, t.prev)
	for slot < end && len(t.batch.lines) < batchBytes {
		for tries := 0; s.sealed(slot) == 0; tries++ {
			if s.bad.Load() || tries > manyTries {
				s.bad.Store(true)
				return slot, errSpoolGone
			}
			pause(tries)
		}
		e, n, ok := s.read(slot, end)
		if !ok {
			s.bad.Store(true)
			return slot, fmt.Errorf("spool: %w", errSpoolDamaged) // somebody else wrote into it
		}
		t.batch.add(&e)
		slot += n
	}
	if err := t.writeBatch(); err != nil {
		return slot, err
	}
	s.drain(slot)
	s.release()
	return slot, nil
}

// manyTries take two seconds at least. Nobody is held up for so long between taking a slot and sealing it.
const manyTries = 100_000

// pause waits for a producer that has taken slots and is about to seal them. Only the scheduler can hold it up.
func pause(tries int) {
	if tries < 100 {
		runtime.Gosched()
		return
	}
	time.Sleep(20 * time.Microsecond)
}
