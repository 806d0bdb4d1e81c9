package audit

import (
	"fmt"
	"path/filepath"
)

// openLeftSpool opens the spool that a dead process has left, if any. When it died after it wrote statements to the
// trail and before it noted that in the spool, the last of them is the trail's last whole record: that is noted now,
// before anything else is written to the trail.
func (t *Trail) openLeftSpool(last Record) (*spool, error) {
	left, err := leftSpool(t.spoolPath())
	if left == nil || err != nil {
		return nil, err
	}
	if n := last.StatementNumber; last.Event == SessionStatement && n >= left.word(wordDrained).Load() && n < left.end() {
		left.drain(n + left.slotsAt(n))
	}
	return left, nil
}

// end is the slot where the records of a dead process end at the latest.
func (s *spool) end() uint64 { return s.word(wordFree).Load() + s.slots }

// slotsAt is the number of slots of the record at a slot, 1 when there is none.
func (s *spool) slotsAt(slot uint64) uint64 {
	if _, n, ok := s.read(slot, s.end()); ok {
		return n
	}
	return 1
}

// nextRecord finds the first record at or after a slot. What lies before it and is none was taken by a producer that died
// before it sealed it, so that nobody was told that it counts; lost counts such places.
func (s *spool) nextRecord(slot uint64) (e entry, after uint64, lost int, ok bool) {
	end, gap := s.end(), false
	for ; slot < end; slot++ {
		if s.word(s.place(slot)).Load() == 0 {
			gap = true
			continue
		}
		if e, n, ok := s.read(slot, end); ok {
			if gap {
				lost++
			}
			return e, slot + n, lost, true
		}
		lost, gap = lost+1, false
	}
	return entry{}, end, lost, false
}

// recoverSpool writes what a dead process has left in its spool to the trail, after a record that announces it. It can
// die at any point and be done again.
func (t *Trail) recoverSpool(left *spool) error {
	found, lost := 0, 0
	for slot, more := left.word(wordDrained).Load(), true; more; {
		var n int
		if _, slot, n, more = left.nextRecord(slot); more {
			found++
		}
		lost += n
	}
	if found+lost == 0 {
		return nil
	}
	err := t.append(Record{Event: TrailRecovered, Detail: map[string]string{
		"spool":                filepath.Base(t.spoolPath()),
		"statements_recovered": fmt.Sprint(found),
		"statements_dropped":   fmt.Sprint(lost),
	}})
	for slot, more := left.word(wordDrained).Load(), true; more && err == nil; {
		t.batch.begin(t.seq, t.prev)
		for more && len(t.batch.lines) < batchBytes {
			var e entry
			if e, slot, _, more = left.nextRecord(slot); more {
				t.batch.add(&e)
			}
		}
		if err = t.writeBatch(); err == nil {
			left.drain(slot)
		}
	}
	return err
}
