package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"slices"
	"time"
)

// ErrTorn is wrapped by the error about a last line that has no newline. The writer died there, or is writing just now;
// the next Open sets such a line aside.
var ErrTorn = errors.New("torn: it does not end in a newline")

// ErrUnknown is wrapped by the error about a record that was there once: the trail was cut off, or is another.
var ErrUnknown = errors.New("no record has the hash")

// LineError says which line of a trail is the first bad one, and why.
type LineError struct {
	Line int // counted from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns what is wrong with the line.
func (e *LineError) Unwrap() error { return e.Err }

// Summary describes the good records of a trail, up to its end or its first bad line.
type Summary struct {
	Records   int
	FirstSeq  uint64    // 1, unless older files were rotated away; 0 when there are no records
	FirstPrev string    // hash of the line before the first; 64 zeros when there was none
	FirstTime time.Time // UTC
	LastSeq   uint64
	LastHash  string // SHA-256 of the last line, hex. Kept elsewhere, it proves later that the end was not cut off
	LastTime  time.Time
	Recovered int // trail_recovered records: how often a writer died in the middle of a line
}

// Verify reads a trail to its end and checks each line: its CRC, its number, and its hash of the line before. It can't
// know that the first record has none before it (look at FirstSeq), nor that the last has none after it: for that, known
// has the LastHash of earlier summaries, whose records must be there, or be the one before the first. Rotated files are
// verified as one with io.MultiReader, oldest first.
//
// The error is a *LineError for the first bad line, r's own, or wraps ErrUnknown. The summary is right in all cases.
func Verify(r io.Reader, known ...string) (Summary, error) {
	var s Summary
	known = slices.Clone(known)
	err := read(r, func(rec Record, hash string) bool {
		if s.Records == 0 {
			s.FirstSeq, s.FirstPrev, s.FirstTime = rec.Seq, rec.Prev, rec.Time
			known = slices.DeleteFunc(known, func(k string) bool { return k == rec.Prev })
		}
		known = slices.DeleteFunc(known, func(k string) bool { return k == hash })
		s.Records++
		s.LastSeq, s.LastHash, s.LastTime = rec.Seq, hash, rec.Time
		if rec.Event == TrailRecovered {
			s.Recovered++
		}
		return true
	})
	if err == nil && len(known) > 0 {
		err = fmt.Errorf("%w %s", ErrUnknown, known[0])
	}
	return s, err
}

// All yields the records of a trail in order and checks them as Verify does. The last pair that it yields has an error
// when the trail is bad there.
func All(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		more := true
		err := read(r, func(rec Record, _ string) bool {
			more = yield(rec, nil)
			return more
		})
		if err != nil && more {
			yield(Record{}, err)
		}
	}
}

// read checks line after line and hands on each good record with its line's hash, until visit returns false.
func read(r io.Reader, visit func(Record, string) bool) error {
	var (
		lines = bufio.NewReaderSize(r, 64<<10)
		buf   []byte
		seq   uint64
		prev  string
	)
	for n := 1; ; n++ {
		line, err := readLine(lines, buf[:0])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, ErrTorn) || errors.Is(err, errLong) {
			return &LineError{Line: n, Err: err}
		}
		if err != nil {
			return fmt.Errorf("reading trail: %w", err)
		}
		rec, err := parseLine(line)
		if err == nil && n > 1 {
			err = follows(rec, seq, prev)
		}
		if err != nil {
			return &LineError{Line: n, Err: err}
		}
		buf, seq, prev = line, rec.Seq, hashLine(line)
		if !visit(rec, prev) {
			return nil
		}
	}
}

func follows(rec Record, seq uint64, prev string) error {
	if rec.Seq != seq+1 {
		return fmt.Errorf("seq is %d, but the line before has %d", rec.Seq, seq)
	}
	if rec.Prev != prev {
		return errors.New("prev is not the hash of the line before: that line or this one was changed")
	}
	return nil
}

// parseLine checks everything about a line that can be known without the line before.
func parseLine(line []byte) (Record, error) {
	const suffix = len(`,"crc":"01234567"}`)
	body := line[:max(len(line)-suffix, 0)]
	want := fmt.Sprintf(`,"crc":"%08x"}`, crc32.Checksum(body, castagnoli))
	if string(line[len(body):]) != want {
		return Record{}, errors.New("crc does not fit: the line is damaged or was changed")
	}
	var rec Record
	if err := json.Unmarshal(line, &rec); err != nil {
		return Record{}, errors.New("not a record")
	}
	if rec.Seq == 0 || len(rec.Prev) != len(genesis) || (rec.Seq == 1) != (rec.Prev == genesis) {
		return Record{}, errors.New("seq and prev are no link of a chain")
	}
	return rec, nil
}

var errLong = fmt.Errorf("longer than %d bytes", MaxRecord)

// readLine appends the next line, without its newline, to buf.
func readLine(r *bufio.Reader, buf []byte) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		buf = append(buf, part...)
		switch {
		case len(buf) > MaxRecord+1:
			return nil, errLong
		case err == nil:
			return bytes.TrimSuffix(buf, []byte("\n")), nil
		case errors.Is(err, io.EOF) && len(buf) > 0:
			return nil, ErrTorn
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
