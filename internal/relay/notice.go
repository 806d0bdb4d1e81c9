package relay

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"
)

// Notify puts a message to the client where the server's current one ends, which is at once if the session is idle. It does
// not wait. message is a whole one that a server may send at any time, such as a NoticeResponse. It is lost if the session
// ends before.
func (r *Relay) Notify(message []byte) {
	for {
		waiting := r.notice.Load()
		all := slices.Clone(message)
		if waiting != nil {
			all = slices.Concat(*waiting, message)
		}
		if r.notice.CompareAndSwap(waiting, &all) {
			break
		}
	}
	_ = r.upstream.SetReadDeadline(past) // wakes up the goroutine that writes to the client: see wokenForNotice
}

// passNotice sends what Notify has left behind these whole messages of the server's.
func (r *Relay) passNotice(ctx context.Context, messages []byte) error {
	if err := r.write(ctx, messages); err != nil {
		return err
	}
	r.fromUpstream.bytes.Add(int64(len(messages)))
	return r.write(ctx, *r.notice.Swap(nil))
}

// wokenForNotice reports that a read has ended because of Notify, or before its time, and makes the next one wait again.
func (r *Relay) wokenForNotice(ctx context.Context, readErr error) bool {
	if !errors.Is(readErr, os.ErrDeadlineExceeded) || r.deaf.Load() {
		return false
	}
	_ = r.upstream.SetReadDeadline(time.Time{})
	// Whoever else sets the deadline has said why before: it must not be lost.
	switch {
	case ctx.Err() != nil:
		_ = r.upstream.SetReadDeadline(past)
	case r.deaf.Load():
		_ = r.upstream.SetReadDeadline(time.Now().Add(endGrace))
	case r.notice.Load() != nil && r.fromUpstream.boundary():
		_ = r.upstream.SetReadDeadline(past) // came a moment ago
	}
	return true
}
