package audit

import (
	"fmt"
	"os"
	"path/filepath"
)

// openLeftSpool opens the spool that a dead process has left, if any. When it died after it wrote statements to the
// trail and before it noted that in the spool, the last of them is the trail's last whole record: that is noted now,
// before anything else is written to the trail.
func (t *Trail) openLeftSpool(last Record) (*spool, error) {
	path, err := t.spoolTarget()
	if path == "" || err != nil {
		return nil, err
	}
	left, err := leftSpool(path)
	if left == nil || err != nil {
		return nil, err
	}
	if n := last.StatementNumber; n > 0 && n >= left.drained && n < left.end() {
		left.drain(n + left.slotsAt(n))
	}
	return left, nil
}

// end is the slot where the records of a dead process end at the latest.
func (s *spool) end() uint64 { return s.free + s.slots }

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
	found, records, lost := 0, 0, 0
	for slot, more := left.drained, true; more; {
		var n int
		var e entry
		if e, slot, n, more = left.nextRecord(slot); more && e.kind == kindRecord {
			records++
		} else if more {
			found++
		}
		lost += n
	}
	if found+records+lost == 0 {
		return nil
	}
	err := t.writeRecord(Record{Event: TrailRecovered, Detail: map[string]string{
		"spool":                filepath.Base(left.path),
		"statements_recovered": fmt.Sprint(found),
		"records_recovered":    fmt.Sprint(records),
		"statements_dropped":   fmt.Sprint(lost),
	}})
	if err != nil {
		return err
	}
	return t.moveRest(left)
}

// moveRest moves all records that can be read in a spool into the trail, past those that can't.
func (t *Trail) moveRest(left *spool) error {
	for slot, more := left.drained, true; more; {
		t.batch.begin(t.seq, t.prev)
		for more && len(t.batch.lines) < batchBytes {
			var e entry
			if e, slot, _, more = left.nextRecord(slot); more {
				t.batch.add(&e)
			}
		}
		if err := t.writeBatch(); err != nil {
			return err
		}
		left.drain(slot)
	}
	return nil
}

// missSpool records that a process ended without order and that its spool is gone: the last statements that it was told
// to record may be missing. A power cut empties a spool in memory, too.
func (t *Trail) missSpool(last Record) error {
	_, err := os.Lstat(t.spoolPath())
	if dangles := err == nil; !dangles && (t.opts.Sync || last.Event == "" || last.Event == TrailClosed) {
		return nil
	}
	t.log.Error("the process before this one ended without order, and its spool is gone: its last statements may be missing", "file", t.path)
	return t.writeRecord(Record{
		Event: TrailRecovered, Detail: map[string]string{"spool": "missing"},
		Error: "the process before this one ended without order, and its spool is gone: its last statements may be missing",
	})
}
