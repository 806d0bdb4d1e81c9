package wholefile

import (
	"errors"
	"sync"
	"time"
)

// patience is how long somebody waits for a file of ours to be written.
const patience = 2 * time.Second

// ErrStalled is a disk that has not answered for two seconds. What was put is written when it answers again.
var ErrStalled = errors.New("the disk does not answer")

// A Writer keeps a document in a file of ours. It writes beside whoever puts one into it, who may wait for that or not:
// what ends access must not be held up by a disk.
type Writer struct {
	file string // "" keeps nothing

	mu      sync.Mutex
	content any           // never changed once it was put
	put     uint64        // how many contents were put
	tried   uint64        // the last of them that was written, or could not be
	err     error         // why it could not
	since   time.Time     // when the write began that goes on; zero when none does
	news    chan struct{} // closed, and another made, after each try
}

// NewWriter returns the writer of a file, which it does not read; file may be "", and nothing is kept then.
func NewWriter(file string) *Writer { return &Writer{file: file, news: make(chan struct{})} }

// Put puts another content into the file, soon. It returns a number for Wait.
func (w *Writer) Put(content any) (number uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.content = content
	w.put++
	w.begin()
	return w.put
}

// Again tries once more what could not be written.
func (w *Writer) Again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		w.begin()
	}
}

// begin has the content written. The mutex is held.
func (w *Writer) begin() {
	if w.file != "" && w.since.IsZero() {
		w.since = time.Now()
		go w.write()
	}
}

// write writes until the file has what was put last, or that failed.
func (w *Writer) write() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		content, number := w.content, w.put
		w.mu.Unlock()
		err := Write(w.file, content)
		w.mu.Lock()
		w.tried, w.err, w.since = number, err, time.Now()
		close(w.news)
		w.news = make(chan struct{})
		if w.put == number {
			w.since = time.Time{}
			return
		}
	}
}

// Wait returns what became of a content, or of a later one; 0 is none. It returns ErrStalled when the disk does not answer for too
// long, or has not for that long already.
func (w *Writer) Wait(number uint64) error {
	if w.file == "" || number == 0 {
		return nil
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		w.mu.Lock()
		tried, err, news := w.tried, w.err, w.news
		stalled := !w.since.IsZero() && time.Since(w.since) >= patience
		w.mu.Unlock()
		switch {
		case tried >= number:
			return err
		case stalled:
			return ErrStalled
		}
		select {
		case <-news:
		case <-timer.C:
			return ErrStalled
		}
	}
}

// Trouble is why the last content could not be written, or ErrStalled when that takes too long.
func (w *Writer) Trouble() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.since.IsZero() && time.Since(w.since) >= patience {
		return ErrStalled
	}
	return w.err
}

// Flush waits as Wait does for what was put last. Its error says that the file lacks that.
func (w *Writer) Flush() error {
	number, _, _ := w.State()
	return w.Wait(number)
}

// State tells how many contents were put, whether one is being written, and whether the last could not be.
func (w *Writer) State() (number uint64, busy, failed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.put, !w.since.IsZero(), w.err != nil
}

// Tried returns why the last try failed, nil when it did not or when there was none, and a channel that is closed after the next.
func (w *Writer) Tried() (next <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.news, w.err
}
