package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hourgate/hourgate/internal/descriptors"
)

// lookEvery is how often the writer looks whether its files are where they were.
const lookEvery = 500 * time.Millisecond

// lookAfterFile notices a trail that was moved or removed without a SIGHUP.
//
// One that was removed is lost with the last process that has it open, so a new file is begun at once, and the old one is
// copied next to it. One that was renamed is safe; who did so may be about to make a new file and send the signal, so
// it is given until the next look, and then the trail goes on at its path as Reopen does. As long as that fails, nothing
// can be recorded: records in a file that nobody looks at are no trail.
func (t *Trail) lookAfterFile() {
	info, err := t.file.Stat()
	if err != nil {
		t.misplaced = err
		return
	}
	same, err := isAt(t.file, t.path)
	switch {
	case err != nil:
		t.misplaced = fmt.Errorf("looking for the trail at its path: %w", err)
		return
	case same:
		t.moved, t.misplaced = false, nil
		return
	}
	links := uint64(1)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		links = uint64(stat.Nlink) //nolint:unconvert,nolintlint // its type is another one on macOS
	}
	if !t.moved && links > 0 {
		t.moved = true
		t.log.Warn("the trail was moved without a SIGHUP", "file", t.path)
		return
	}
	what := "moved"
	if links == 0 {
		what = "removed"
		if t.misplaced == nil {
			t.log.Error("the trail was removed", "file", t.path)
		}
	}
	t.misplaced = nil // what is still in the spool may get into the old file
	old, err := t.rotate(map[string]string{"file_before": what})
	if err != nil {
		t.misplaced = fmt.Errorf("the trail was %s, and can't go on at its path: %w", what, err)
		return
	}
	t.moved = false
	if links > 0 {
		_ = closeLocked(old) // every record was written, and synced if asked for, before
		return
	}
	seq := t.seq - 1
	t.salvaging.Go(func() { t.salvage(old, seq) })
}

// salvage copies a file that has no name any more next to the trail. seq is the number of its last record.
func (t *Trail) salvage(old *os.File, seq uint64) {
	name := fmt.Sprintf("%s.removed-%d", t.path, seq)
	size, err := copyFile(name, old)
	r := Record{Event: TrailRecovered, Detail: map[string]string{"removed_file": filepath.Base(name), "bytes": fmt.Sprint(size)}}
	if err != nil {
		r.Error = err.Error()
		t.log.Error("the trail that was removed could not be copied", "file", name, "error", err)
	}
	if err := t.queue.submit(&task{body: must(t.encode(r)), keep: true}); err != nil {
		t.log.Error("the copy of the trail that was removed could not be recorded", "file", name, "error", err)
	}
}

// must is for a record of our own, which can be encoded.
func must(body []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return body
}

func copyFile(name string, old *os.File) (size int64, err error) {
	defer descriptors.Borrow()()
	defer closeLocked(old) //nolint:errcheck // only read
	info, err := old.Stat()
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	size, err = io.Copy(f, io.NewSectionReader(old, 0, info.Size()))
	return size, errors.Join(err, f.Sync(), f.Close())
}

// reopen is Reopen, done by the writer after everything that came before. err says what became of that.
func (t *Trail) reopen(err error) error {
	if same, at := isAt(t.file, t.path); at != nil || same {
		return at
	}
	if err == nil || t.misplaced != nil {
		t.misplaced = nil
		var old *os.File
		if old, err = t.rotate(nil); err == nil {
			t.moved = false
			_ = closeLocked(old) // every record was written, and synced if asked for, before
		}
	}
	if err != nil {
		return fmt.Errorf("reopening trail %s: %w", t.path, err)
	}
	return nil
}

// rotate goes on in a new file, and returns the old one.
func (t *Trail) rotate(detail map[string]string) (old *os.File, err error) {
	if err := t.drain(); err != nil {
		return nil, err
	}
	if err := t.cut(); err != nil { // the old file must end whole
		return nil, err
	}
	next, err := openLocked(t.path)
	if err != nil {
		return nil, err
	}
	info, err := next.Stat()
	if err == nil && info.Size() > 0 {
		err = errors.New("the new file is not empty")
	}
	if err != nil {
		_ = next.Close()
		return nil, err
	}
	old = t.file
	t.file = next
	if err := t.begin(detail); err != nil {
		t.file, t.torn = old, 0
		_ = next.Close()
		return nil, err
	}
	return old, nil
}
