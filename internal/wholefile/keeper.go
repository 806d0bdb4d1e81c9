package wholefile

import (
	"errors"
	"sync"
	"time"
)

// keeperWait is how long somebody waits for a file of ours to be written.
const keeperWait = 2 * time.Second

// ErrStalled is a disk that has not answered for two seconds. What was put is written when it answers again.
var ErrStalled = errors.New("the disk does not answer")

// A Keeper keeps something in a file of ours. It writes beside whoever puts something into it, who may wait for that or not:
// what ends access must not be held up by a disk.
type Keeper struct {
	file string // "" keeps nothing

	mu      sync.Mutex
	content any           // never changed once it was put
	put     uint64        // how many contents were put
	tried   uint64        // the last of them that was written, or could not be
	err     error         // why it could not
	since   time.Time     // when the write began that goes on; zero when none does
	news    chan struct{} // closed, and another made, after each try
}

// NewKeeper returns a keeper of a file, which it does not read; file may be "", and nothing is kept then.
func NewKeeper(file string) *Keeper { return &Keeper{file: file, news: make(chan struct{})} }

// Keep puts another content into the file, soon. It returns a number for Wait.
func (k *Keeper) Keep(content any) (number uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.content = content
	k.put++
	k.begin()
	return k.put
}

// Again tries once more what could not be written.
func (k *Keeper) Again() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		k.begin()
	}
}

// begin has the content written. The mutex is held.
func (k *Keeper) begin() {
	if k.file != "" && k.since.IsZero() {
		k.since = time.Now()
		go k.write()
	}
}

// write writes until the file has what was put last, or that failed.
func (k *Keeper) write() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		content, number := k.content, k.put
		k.mu.Unlock()
		err := Write(k.file, content)
		k.mu.Lock()
		k.tried, k.err, k.since = number, err, time.Now()
		close(k.news)
		k.news = make(chan struct{})
		if k.put == number {
			k.since = time.Time{}
			return
		}
	}
}

// Wait returns what became of a content, or of a later one; 0 is none. It returns ErrStalled when the disk does not answer for too
// long, or has not for that long already.
func (k *Keeper) Wait(number uint64) error {
	if k.file == "" || number == 0 {
		return nil
	}
	timer := time.NewTimer(keeperWait)
	defer timer.Stop()
	for {
		k.mu.Lock()
		tried, err, news := k.tried, k.err, k.news
		stalled := !k.since.IsZero() && time.Since(k.since) >= keeperWait
		k.mu.Unlock()
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
func (k *Keeper) Trouble() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.since.IsZero() && time.Since(k.since) >= keeperWait {
		return ErrStalled
	}
	return k.err
}

// Flush waits as Wait does for what was put last. Its error says that the file lacks that.
func (k *Keeper) Flush() error {
	number, _, _ := k.State()
	return k.Wait(number)
}

// State tells how many contents were put, whether one is being written, and whether the last could not be.
func (k *Keeper) State() (number uint64, busy, failed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.put, !k.since.IsZero(), k.err != nil
}
