package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
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

// run is the writer. A disk that does not answer holds up this goroutine, in a system call, and nobody else.
func (t *Trail) run() {
	defer close(t.stopped)
	if !t.opts.Sync { // else each statement waits for it
		giveWay(runtime.NumCPU())
	}
	every := t.opts.lookEvery
	if every == 0 {
		every = lookEvery
	}
	look := time.NewTicker(every)
	defer look.Stop()
	alarm := time.AfterFunc(time.Hour, func() { t.log.Error("the trail's disk does not answer", "file", t.path) })
	defer alarm.Stop()
	for more := true; more; {
		looks := false
		select {
		case <-t.queue.ready:
		case <-t.woken:
			t.wake.Store(wakeNever) // first: whoever seals a record after the writer has looked calls again
		case <-look.C:
			looks = true
		}
		alarm.Reset(stallAfter)
		t.answers()
		more = t.round(looks)
		t.busy.Store(0)
		alarm.Stop()
	}
}

// answers notes that the disk has answered.
func (t *Trail) answers() { t.busy.Store(time.Now().UnixNano()) }

// round does what there is to do, and says whether there can be more. What is in the queue comes after what was in the
// spool when it was taken: a session's end after its statements.
func (t *Trail) round(looks bool) bool {
	tasks := t.queue.takeAll()
	var err error
	if s := t.spool.Load(); looks || s != nil && s.bad.Load() {
		t.lookAfterFile()
		err = t.lookAfterSpool()
	}
	if err == nil && t.misplaced == nil && looks && len(tasks) == 0 && !t.failing.Load() {
		return true
	}
	if err == nil {
		err = t.drain()
	}
	left, done, err := t.work(tasks, err)
	if done {
		return false
	}
	t.queue.putBack(left)
	t.report(err)
	if (err != nil || len(left) > 0) && t.wake.CompareAndSwap(wakeNever, wakeSoon) {
		t.timer.Reset(retryDelay)
	}
	return true
}

// report says when writing begins to fail and when it works again.
func (t *Trail) report(err error) {
	if err != nil {
		t.errors.Add(1)
	}
	switch was := t.failing.Swap(err != nil); {
	case err != nil && !was:
		t.log.Error("the trail can't be written", "file", t.path, "error", err)
	case err == nil && was:
		t.log.Info("the trail can be written again", "file", t.path)
	}
}

// work does tasks in order. err is what became of the spool; after an error nothing more is written. It returns the
// records that have to be tried again, and whether the last task was done.
func (t *Trail) work(tasks []*task, err error) (left []*task, done bool, _ error) {
	var open []*task // whose lines are in the batch
	flush := func() {
		if len(open) > 0 && err == nil {
			err = t.writeBatch()
		}
		for _, k := range open {
			if err != nil && k.keep {
				left = append(left, k)
			} else {
				k.answer(err)
			}
		}
		open = open[:0]
		t.batch.begin(t.seq, t.prev)
	}
	flush()
	for _, k := range tasks {
		if !k.take() {
			continue
		}
		if k.do != nil {
			flush()
			if k.last && len(left) > 0 {
				err = errors.Join(err, fmt.Errorf("%d records are lost", len(left)))
			}
			result := k.do(err)
			t.batch.begin(t.seq, t.prev) // it may have written
			k.answer(result)
			done = done || k.last
			continue
		}
		open = append(open, k)
		if err != nil {
			continue
		}
		if k.entry != nil {
			t.batch.add(k.entry)
		} else {
			t.batch.addRecord(k.body)
		}
		if len(t.batch.lines) >= batchBytes {
			flush()
		}
	}
	flush()
	return left, done, err
}

// statement puts a statement where this process's death can't reach it: into the spool, or with Sync onto the disk.
func (t *Trail) statement(ctx context.Context, e *entry) error {
	if t.opts.Sync {
		return t.ask(ctx, &task{entry: e.clone()}, roomWait)
	}
	if t.failing.Load() { // what can't get any further is not begun
		if err := t.flush(ctx); err != nil {
			return err
		}
	}
	for {
		end, err := t.spool.Load().record(e)
		switch {
		case err == nil:
			t.call(end)
			return nil
		case errors.Is(err, errSpoolFull), errors.Is(err, errSpoolGone): // there will be room, or another spool
			if err := t.flush(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// keep puts the body of a record where this process's death can't reach it, if there is room that statements don't need.
func (t *Trail) keep(body []byte) bool {
	s := t.spool.Load()
	if s == nil || len(body) > MaxStatementText || s.used() > int64(len(s.mem)/2) {
		return false
	}
	if _, err := s.record(&entry{kind: kindRecord, text: body}); err != nil {
		return false
	}
	t.wake.Store(wakeNow)
	signal(t.woken)
	return true
}

// clone is an entry that belongs to nobody else.
func (e *entry) clone() *entry {
	c := *e
	for _, field := range []*[]byte{&c.session, &c.user, &c.grant, &c.name, &c.portal, &c.text} {
		*field = slices.Clone(*field)
	}
	return &c
}

// call sees to it that the writer comes, after slots up to end were filled.
func (t *Trail) call(end uint64) {
	wake := t.wake.Load()
	s := t.spool.Load()
	switch {
	case wake == wakeNow:
	case end+s.slots/2 > s.limit.Load():
		if t.wake.CompareAndSwap(wake, wakeNow) {
			t.timer.Reset(0)
		}
	case wake == wakeNever:
		if t.wake.CompareAndSwap(wake, wakeSoon) {
			t.timer.Reset(writeDelay)
		}
	}
}

// writeBatch appends the batch's lines to the trail, all or none.
func (t *Trail) writeBatch() error {
	if t.misplaced != nil {
		return t.misplaced
	}
	if err := t.write(t.batch.lines); err != nil {
		return err
	}
	t.answers()
	t.seq, t.prev = t.batch.seq, string(t.batch.prev[:])
	return nil
}

// writeRecord writes one record. Only the writer may call it, or Open.
func (t *Trail) writeRecord(r Record) error {
	body, err := t.encode(r)
	if err != nil {
		return err
	}
	t.batch.begin(t.seq, t.prev)
	t.batch.addRecord(body)
	return t.writeBatch()
}

// write writes lines whole or not at all.
func (t *Trail) write(lines []byte) error {
	if t.file == nil {
		return ErrClosed
	}
	if err := t.cut(); err != nil { // what an earlier failure left
		return err
	}
	n, err := t.file.Write(lines)
	if err == nil && t.opts.Sync {
		err = t.file.Sync()
	}
	if err != nil {
		t.torn = int64(n)
		return errors.Join(err, t.cut())
	}
	return nil
}

// cut takes the torn bytes off the end of the file. It counts from the end that the file has now and not from a
// remembered size: a tool that empties the file in place (logrotate's copytruncate) would turn a cut to the old size
// into a run of zeros.
func (t *Trail) cut() error {
	if t.torn == 0 {
		return nil
	}
	info, err := t.file.Stat()
	if err != nil {
		return err
	}
	if err := t.file.Truncate(max(info.Size()-t.torn, 0)); err != nil {
		return fmt.Errorf("cutting off a torn line: %w", err)
	}
	t.torn = 0
	return nil
}

// shut ends the trail. What can't be moved out of the spool stays there, for the next Open.
func (t *Trail) shut(err error) error {
	t.timer.Stop()
	t.salvaging.Wait()
	s := t.spool.Load()
	if s != nil {
		s.head.Or(spoolClosed) // nobody may write to memory that is about to go away
		if err == nil {
			err = t.drainSpool(s)
		}
	}
	if err == nil {
		err = t.writeRecord(Record{Event: TrailClosed})
	}
	if s != nil {
		if err == nil {
			err = s.remove(t.spoolPath())
		}
		err = errors.Join(err, s.leave())
	}
	err = errors.Join(err, t.cut(), closeLocked(t.file))
	t.file = nil
	return err
}

// openSpool moves what a dead process has left into the trail, and makes a spool for this one.
func (t *Trail) openSpool(left *spool, last Record) error {
	after := uint64(0)
	if left != nil {
		after = left.free + left.slots
		if err := t.recoverSpool(left); err != nil {
			return fmt.Errorf("recovering spool: %w", errors.Join(err, left.close()))
		}
	} else if err := t.missSpool(last); err != nil {
		return fmt.Errorf("recording that the spool is missing: %w", err)
	}
	if !t.opts.Sync {
		s, err := t.makeSpool(firstSlot(after), left != nil && left.path == t.spoolPath())
		if err != nil {
			return errors.Join(fmt.Errorf("making spool: %w", err), left.close())
		}
		t.spool.Store(s)
	}
	if left == nil {
		return nil
	}
	var err error
	if t.opts.Sync || left.path != t.spoolPath() {
		err = os.Remove(left.path)
	}
	if t.opts.Sync {
		if removed := os.Remove(t.spoolPath()); !errors.Is(removed, os.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	return errors.Join(err, left.close())
}
