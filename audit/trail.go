package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
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
	// The cost, measured with BenchmarkAppend on ext4 on a virtual disk: 0.15 to 0.75 ms a record instead of 0.004 ms,
	// so 1,300 records a second in all at the worst. fdatasync measured no faster: each record makes the file longer.
	Sync bool

	// Deployment and Proxy are put into each record that has none.
	Deployment string
	Proxy      string

	// Spool is the size in bytes of the file, next to the trail, in which statements wait for the writer. It is rounded
	// down to a power of two and a header; the least is 512 KiB. 0 means DefaultSpool. With Sync there is none.
	Spool int64
}

// Trail is an open trail. Its methods may be called from several goroutines; records are written one after the other,
// in the order in which Append took them.
type Trail struct {
	path string
	opts Options

	mu   sync.Mutex
	file *os.File // nil after Close. Opened with O_APPEND and locked with flock
	seq  uint64   // of the last whole record
	prev string   // hash of the last whole record
	torn int64    // bytes at the end of file that a failed Append left and that could not be cut off yet

	// One record is encoded at a time, under mu, so these are used again and again.
	record Record
	buf    bytes.Buffer
	enc    *json.Encoder
	batch  batch

	spool *spool // nil with Options.Sync. Set once, by Open
	timer *time.Timer
	_     [64]byte // what follows is read by all sessions and seldom written

	wake    atomic.Uint32 // when the writer comes next: wakeNever, wakeSoon, wakeNow
	failing atomic.Bool   // the writer could not write when it tried last
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
	t := &Trail{path: file, opts: opts, prev: genesis, batch: batch{same: sameInAll(opts)}}
	t.enc = json.NewEncoder(&t.buf)
	t.enc.SetEscapeHTML(false)
	if err := t.open(); err != nil {
		return nil, fmt.Errorf("opening trail %s: %w", file, err)
	}
	t.timer = time.AfterFunc(math.MaxInt64, t.writeSpool)
	t.timer.Stop()
	return t, nil
}

func (t *Trail) open() (err error) {
	if t.file, err = openLocked(t.path); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = t.file.Close()
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
	if err := t.begin(); err != nil {
		return errors.Join(err, left.close())
	}
	return t.openSpool(left)
}

// begin writes the first record of this process or of a rotated file.
func (t *Trail) begin() error {
	if t.opts.Sync { // a power cut must not lose the name of a new file
		if err := syncFolder(filepath.Dir(t.path)); err != nil {
			return err
		}
	}
	return t.append(Record{Event: TrailOpened})
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
	return t.append(Record{Event: TrailRecovered, Detail: map[string]string{
		"torn_file":   filepath.Base(side),
		"torn_bytes":  fmt.Sprint(len(aside)),
		"torn_sha256": hashLine(aside),
	}})
}

// Append writes one record with a single write(2), and sets its Seq, Prev and, where they are zero, Time, Deployment
// and Proxy. When it returns nil the record is in the trail and survives this process. When it returns an error
// (unknown event, record longer than MaxRecord, full disk, ErrClosed) the trail is as it was before, the act that the
// record announces must not happen, and a later Append works again as soon as there is room.
func (t *Trail) Append(r Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.drain()
	if err == nil {
		err = t.append(r)
	}
	if err != nil {
		return fmt.Errorf("writing to trail %s: %w", t.path, err)
	}
	return nil
}

func (t *Trail) append(r Record) error {
	if t.file == nil {
		return ErrClosed
	}
	if !r.Event.known() || r.Event == SessionStatement { // statements have a way of their own
		return fmt.Errorf("unknown event %q", r.Event)
	}
	line, err := t.encode(r)
	if err != nil {
		return err
	}
	if err := t.write(line); err != nil {
		return err
	}
	t.seq, t.prev = t.seq+1, hashLine(line[:len(line)-1])
	return nil
}

// encode makes the line of a record, newline included. The line is valid until the next call.
func (t *Trail) encode(r Record) ([]byte, error) {
	r.Seq, r.Prev = t.seq+1, t.prev
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Time = r.Time.UTC()
	if !r.Until.IsZero() {
		r.Until = r.Until.UTC()
	}
	if r.Deployment == "" {
		r.Deployment = t.opts.Deployment
	}
	if r.Proxy == "" {
		r.Proxy = t.opts.Proxy
	}
	t.buf.Reset()
	t.record = r
	if err := t.enc.Encode(&t.record); err != nil {
		return nil, fmt.Errorf("encoding record: %w", err)
	}
	t.buf.Truncate(t.buf.Len() - len("}\n"))
	fmt.Fprintf(&t.buf, `,"crc":"%08x"}`, crc32.Checksum(t.buf.Bytes(), castagnoli))
	if t.buf.Len() > MaxRecord {
		t.buf = bytes.Buffer{}
		return nil, fmt.Errorf("record is longer than %d bytes", MaxRecord)
	}
	t.buf.WriteByte('\n')
	return t.buf.Bytes(), nil
}

// write writes a line whole or not at all.
func (t *Trail) write(line []byte) error {
	if err := t.cut(); err != nil { // what an earlier failure left
		return err
	}
	n, err := t.file.Write(line)
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

// Reopen is for log rotation: call it on SIGHUP, after the file was renamed or removed. When the path is still the file
// that is open, nothing happens. Otherwise it opens the path anew (it must be empty or not exist) and goes on with the
// chain there: the first record, trail_opened, carries the hash of the old file's last. On an error the trail goes on
// in the old file.
func (t *Trail) Reopen() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return ErrClosed
	}
	if same, err := isAt(t.file, t.path); err != nil || same {
		return err
	}
	if err := t.rotate(); err != nil {
		return fmt.Errorf("reopening trail %s: %w", t.path, err)
	}
	return nil
}

func (t *Trail) rotate() error {
	if err := t.drain(); err != nil {
		return err
	}
	if err := t.cut(); err != nil { // the old file must end whole
		return err
	}
	next, err := openLocked(t.path)
	if err != nil {
		return err
	}
	info, err := next.Stat()
	if err == nil && info.Size() > 0 {
		err = errors.New("the new file is not empty")
	}
	if err != nil {
		_ = next.Close()
		return err
	}
	old := t.file
	t.file = next
	if err := t.begin(); err != nil {
		t.file, t.torn = old, 0
		_ = next.Close()
		return err
	}
	_ = old.Close() // every record was written, and synced if asked for, before
	return nil
}

// Close closes the file and gives up its lock. Append fails from then on. Close may be called more than once.
func (t *Trail) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	err := errors.Join(t.closeSpool(), t.cut(), t.file.Close())
	t.file = nil
	return err
}
