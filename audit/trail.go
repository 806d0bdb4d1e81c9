package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// MaxRecord is the length in bytes of the longest line that a trail takes. It is far above any honest record; it keeps
// whoever reads a damaged or hostile trail from buffering all of it as one line.
const MaxRecord = 16 << 20

var (
	// ErrLocked is returned by Open and Reopen when another process, or another Trail of this one, writes the file.
	ErrLocked = errors.New("another process is writing this trail")

	// ErrClosed is returned by Append and Reopen after Close.
	ErrClosed = errors.New("trail is closed")

	// ErrStalled is returned when the trail's disk does not answer: a frozen file system, a network disk that hangs.
	ErrStalled = errors.New("the disk does not answer")
)

var (
	genesis    = strings.Repeat("0", hex.EncodedLen(sha256.Size)) // prev of the very first record
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Options are optional in all parts.
type Options struct {
	// Sync makes Append and Statement wait until the record is on the disk (fsync), so that it survives a power cut as well. Default
	// false: the death of the process never loses a record, and one that must survive the machine is better shipped
	// off it.
	//
	// The cost, measured with BenchmarkAppend on ext4 on a virtual disk: 0.15 to 0.75 ms a record instead of 0.004 ms.
	// Records that wait at the same time share one fsync.
	Sync bool

	// Deployment and Proxy are put into each record that has none.
	Deployment string
	Proxy      string

	// Spool is the size in bytes of the file in which statements wait for the writer. It is rounded down to a power of
	// two and a header; the least is 512 KiB. 0 means DefaultSpool. With Sync there is none.
	Spool int64

	// SpoolFolder is where the spool is made. It should be in memory (tmpfs) and outlive the process. Empty means
	// /dev/shm where that is in memory, and the trail's own folder elsewhere: see docs/decisions/0023.
	SpoolFolder string

	// Log is told of trouble that no caller hears of, such as a trail that was moved away. nil means nobody.
	Log *slog.Logger

	lookEvery time.Duration // for tests; 0 means lookEvery
}

// Trail is an open trail. Its methods may be called from several goroutines; records are written one after the other,
// in the order in which Append took them.
//
// One goroutine, the writer, does everything that a disk may hold up (writer.go). Everybody else hands it a task and
// waits as long as they can afford, or not at all.
type Trail struct {
	path  string
	opts  Options
	log   *slog.Logger
	queue queue

	// These belong to the writer, and to Open before it starts.
	file      *os.File // nil after Close. Opened with O_APPEND and locked with flock
	seq       uint64   // of the last whole record
	prev      string   // hash of the last whole record
	torn      int64    // bytes at the end of file that a failed write left and that could not be cut off yet
	batch     batch
	moved     bool  // the file was not at its path when the writer looked last
	misplaced error // why nothing may be written to file
	salvaging sync.WaitGroup

	spool   atomic.Pointer[spool] // nil with Options.Sync. The writer changes it
	timer   *time.Timer           // wakes the writer
	woken   chan struct{}
	stopped chan struct{} // closed when the writer has ended
	_       [64]byte      // what follows is read by all sessions and seldom written

	wake    atomic.Uint32 // when the writer comes next: wakeNever, wakeSoon, wakeNow
	failing atomic.Bool   // the writer could not write when it tried last
	busy    atomic.Int64  // since when it is doing the same thing, in nanoseconds since 1970; 0 when it rests
	errors  atomic.Uint64 // rounds that failed
}

// Open opens the trail in a file for writing, makes the file (mode 0600) if there is none, takes an exclusive lock on
// it, and goes on with the chain where the last record left it. It writes a trail_opened record, so a trail that can't
// be written is found here and not at the first session.
//
// A last line without newline (the writer died in the middle) is moved to a file with the trail's name and the suffix
// ".torn-" and the number of the record that never was; a trail_recovered record then names that file. Open refuses a
// file whose last whole line is no record: it is damaged or no trail, and must be looked at and moved away by a person.
//
// Errors: ErrLocked, and whatever the file system answers.
func Open(file string, opts Options) (*Trail, error) {
	t := &Trail{
		path: file, opts: opts, log: opts.Log, prev: genesis, batch: batch{same: sameInAll(SessionStatement, opts), sameResults: sameInAll(StatementResult, opts)},
		woken: make(chan struct{}, 1), stopped: make(chan struct{}), queue: queue{ready: make(chan struct{}, 1)},
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if err := t.open(); err != nil {
		return nil, fmt.Errorf("opening trail %s: %w", file, err)
	}
	t.timer = time.AfterFunc(math.MaxInt64, func() { signal(t.woken) })
	t.timer.Stop()
	go t.run()
	return t, nil
}

func (t *Trail) open() (err error) {
	if t.file, err = openLocked(t.path); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = closeLocked(t.file)
		}
	}()
	last, torn, err := lastLine(t.file)
	if err != nil {
		return err
	}
	var r Record
	if last != nil {
		if r, err = parseLine(last); err != nil {
			return fmt.Errorf("last line is no whole record (%w): verify the file, move it away, and start again", err)
		}
		t.seq, t.prev = r.Seq, hashLine(last)
	}
	left, err := t.openLeftSpool(r)
	if err != nil {
		return fmt.Errorf("opening spool: %w", err)
	}
	if err := t.recover(torn); err != nil {
		return errors.Join(fmt.Errorf("recovering torn last line: %w", err), left.close())
	}
	if err := t.begin(nil); err != nil {
		return errors.Join(err, left.close())
	}
	return t.openSpool(left, r)
}

// begin writes the first record of this process or of a rotated file.
func (t *Trail) begin(detail map[string]string) error {
	if t.opts.Sync { // a power cut must not lose the name of a new file
		if err := syncFolder(filepath.Dir(t.path)); err != nil {
			return err
		}
	}
	return t.writeRecord(Record{Event: TrailOpened, Detail: detail})
}

// recover sets a torn last line aside and records that it did. Each step can be cut short by a crash and done again by
// the next Open: the side file is named after the record that is missing, and exists until that number is taken by the
// trail_recovered record.
func (t *Trail) recover(torn []byte) error {
	side := fmt.Sprintf("%s.torn-%d", t.path, t.seq+1)
	if len(torn) > 0 {
		if err := setAside(side, torn); err != nil {
			return err
		}
		t.torn = int64(len(torn))
		if err := t.cut(); err != nil {
			return err
		}
	}
	aside, err := os.ReadFile(side)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.writeRecord(Record{Event: TrailRecovered, Detail: map[string]string{
		"torn_file":   filepath.Base(side),
		"torn_bytes":  fmt.Sprint(len(aside)),
		"torn_sha256": hashLine(aside),
	}})
}

// Append puts one record into the trail, and sets its Seq, Prev and, where they are zero, Time, Deployment and Proxy.
//
// A record that announces an act is in the trail when Append returns nil, and survives this process. When Append returns
// an error (unknown event, record longer than MaxRecord, full disk, ErrClosed) the trail is as it was before, the act
// must not happen, and a later Append works again as soon as there is room. ErrStalled comes after five seconds, or at
// once when the disk has not answered for that long already; then the record may still get into the trail.
//
// A record of what has happened, or of what takes access away ([Event.Announces] is false), is only handed to the
// writer: Append never waits for the disk, and returns nil unless the record is none or the queue is full. It goes by way
// of the spool, as statements do, so that it survives this process. Where there is none, or it is half full, the record
// waits in memory. One that can't be written is tried again; Log is told.
func (t *Trail) Append(r Record) error {
	err := t.append(r)
	if err != nil {
		return fmt.Errorf("writing to trail %s: %w", t.path, err)
	}
	return nil
}

func (t *Trail) append(r Record) error {
	if !r.Event.known() || r.Event == SessionStatement || r.Event == StatementResult {
		return fmt.Errorf("unknown event %q", r.Event)
	}
	body, err := t.encode(r)
	if err != nil {
		return err
	}
	if !r.Event.Announces() {
		if t.keep(body) {
			return nil
		}
		return t.queue.submit(&task{body: body, keep: true})
	}
	return t.ask(context.Background(), &task{body: body}, announceWait)
}

// flush waits until the writer has moved what was put into the spool before now into the trail.
func (t *Trail) flush(ctx context.Context) error {
	return t.ask(ctx, &task{do: func(err error) error { return err }}, roomWait)
}

// Reopen is for log rotation: call it on SIGHUP, after the file was renamed or removed. When the path is still the file
// that is open, nothing happens. Otherwise it opens the path anew (it must be empty or not exist) and goes on with the
// chain there: the first record, trail_opened, carries the hash of the old file's last. On an error the trail goes on
// in the old file, for as long as the writer has not seen by itself that it was moved: see moved.go. It returns
// ErrStalled when the disk does not answer within a second.
func (t *Trail) Reopen() error {
	return t.ask(context.Background(), &task{do: t.reopen}, reopenWait)
}

// Close writes what is left, closes the file and gives up its lock. Append fails from then on. Close may be called more
// than once. It returns ErrStalled when the disk does not answer; the spool then waits for the next Open.
func (t *Trail) Close() error {
	last := &task{do: t.shut, last: true, done: make(chan error, 1)}
	if !t.queue.finish(last) {
		return nil
	}
	err := t.await(context.Background(), last, closeWait)
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// Status is how the trail is doing.
type Status struct {
	Failing bool          // the last try to write failed
	Stalled time.Duration // how long the disk has not answered; 0 when it does
	Queued  int           // records that wait in memory for the writer
	Spooled int64         // bytes of the spool that are in use
	Errors  uint64        // tries to write that failed, since Open
}

// Status tells how the trail is doing. It never waits.
func (t *Trail) Status() Status {
	s := Status{Failing: t.failing.Load(), Stalled: t.stalled(), Queued: t.queue.len(), Errors: t.errors.Load()}
	if spool := t.spool.Load(); spool != nil {
		s.Spooled = spool.used()
	}
	return s
}

// stalled says for how long the disk has not answered, if that is long.
func (t *Trail) stalled() time.Duration {
	since := t.busy.Load()
	if since == 0 {
		return 0
	}
	if d := time.Since(time.Unix(0, since)); d > stallAfter {
		return d
	}
	return 0
}
