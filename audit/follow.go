package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"
)

// followEvery is how often somebody who reads along looks for more.
const followEvery = 100 * time.Millisecond

// Follow yields the records of a trail from the one with the number from on, and goes on with those that are still to be
// written, until ctx is done. It reads the files, so it works in any process; it goes from one file to the next when the
// trail is rotated. Statements come up to 200 ms after they were made.
//
// The last pair has an error when a line is no record, or does not follow the one before, as when rotated files were taken
// away before they were read.
func Follow(ctx context.Context, file string, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		f := follower{path: file, next: from, yield: yield}
		for ctx.Err() == nil && !f.over {
			name, err := f.find()
			if err != nil {
				yield(Record{}, err)
				return
			}
			if name == "" {
				pause := time.NewTimer(followEvery)
				select {
				case <-ctx.Done():
				case <-pause.C:
				}
				pause.Stop()
				continue
			}
			if err := f.read(ctx, name); err != nil && !f.over {
				yield(Record{}, err)
				return
			}
		}
	}
}

type follower struct {
	path   string
	next   uint64 // number of the next record to yield
	seen   bool   // a record was read; prev is its hash
	prev   string
	missed int  // looks in a row at which the next record was in none of the files
	begins bool // nothing of the file was read yet
	over   bool // nobody wants more
	yield  func(Record, error) bool
}

// looks is how often a record must be in none of the files. A folder that is listed while a file is renamed may show neither of
// its names.
const looks = 3

// errTakenAway is a record that is in none of the files, though later ones are.
var errTakenAway = errors.New("they were taken away before they were read")

// find returns the file that the next record is in, or will be; "" when that can't be told yet. Somebody who has read nothing
// yet begins with the first record that there is.
func (f *follower) find() (string, error) {
	name, first, err := f.look()
	if err != nil || first <= f.next {
		f.missed = 0
		return name, err
	}
	if f.missed++; f.missed < looks {
		return "", nil
	}
	if f.seen {
		return "", fmt.Errorf("records %d to %d are in none of the files: %w", f.next, first-1, errTakenAway)
	}
	f.next = first
	return name, nil
}

// look returns the last file that begins with the next record or before it, or else the first file, and the number of its
// first record.
func (f *follower) look() (found string, first uint64, err error) {
	files, err := Files(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	for _, name := range files {
		r, err := firstRecord(name)
		if err != nil {
			return "", 0, nil // it was moved just now
		}
		if found == "" || r.Seq <= f.next {
			found, first = name, r.Seq
		}
	}
	return found, first, nil
}

// read yields the records of a file until the next one is in another file.
func (f *follower) read(ctx context.Context, name string) error {
	in, err := OpenFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil // moved just now
	}
	if err != nil {
		return err
	}
	defer in.Close()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	f.begins = true
	var rest []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := in.Read(chunk)
		rest = append(rest, chunk[:n]...)
		rest, err = f.lines(rest, err)
		switch {
		case errors.Is(err, errOther):
			return nil
		case err != nil && !errors.Is(err, io.EOF) || f.over:
			return err
		case len(rest) > MaxRecord+1:
			return errLong
		case n > 0:
			continue
		}
		if len(rest) == 0 {
			if other, err := f.find(); err != nil || other != "" && !sameFile(in, other) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// errOther is a file that has another one's name now.
var errOther = errors.New("not the file that was looked for")

// sameFile says whether a name leads to an open file.
func sameFile(in io.Reader, name string) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	same, err := isAt(f, name)
	return err == nil && same
}

// lines yields the whole lines in b and returns what is left.
func (f *follower) lines(b []byte, readErr error) ([]byte, error) {
	for {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			return bytes.Clone(b), readErr
		}
		line := b[:end]
		b = b[end+1:]
		r, err := parseLine(line)
		if err == nil && f.begins && r.Seq > f.next {
			return nil, errOther
		}
		f.begins = false
		if err == nil && f.seen && r.Seq >= f.next {
			err = follows(r, f.next-1, f.prev)
		}
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", f.next, err)
		}
		if r.Seq < f.next {
			f.seen, f.prev = r.Seq+1 == f.next, hashLine(line)
			continue
		}
		f.next, f.prev, f.seen = r.Seq+1, hashLine(line), true
		if !f.yield(r, nil) {
			f.over = true
			return nil, nil
		}
	}
}

// LastSeq is the number of a file's last whole record, 0 when it has none.
func LastSeq(file string) (uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	last, _, err := lastLine(f)
	if err != nil || last == nil {
		return 0, err
	}
	r, err := parseLine(last)
	return r.Seq, err
}
