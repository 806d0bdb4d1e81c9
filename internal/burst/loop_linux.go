//go:build (amd64 || arm64) && !portable

package burst

import (
	"context"
	"net"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A loop serves the sockets of many sessions with one goroutine, in the order in which their bytes came. Sockets that wait
// in Go's poller cost the wake-up of a goroutine for each burst, and are woken in the reverse order of their bytes.
// Decision 42 has the figures.
//
// One goroutine leads: it waits for events and takes turns, one socket after the other. A turn may have to wait all the
// same: for a peer that reads slowly, a lock, a disk. The leader that has to wait is relieved: another goroutine leads from
// then on, and the old one ends after its turn. Write relieves before it waits; a watch finds everybody else within
// watchEvery or two. So a turn is written as any other code, and nothing in it can hold up other sessions for long.
//
// While it waits for events, the leader keeps its P, which is the scheduler's right to run Go code: giving it up and taking
// it back costs as much as the rest of a small turn. The program gets a P more for each loop in exchange, so that there are
// as many for everybody else as without. After some milliseconds in which nothing comes, the leader waits as in any system
// call and keeps nothing.
type loop struct {
	poll int           // epoll set of all seats and the bell
	bell int           // eventfd that ends a wait
	turn atomic.Uint64 // counts up when a turn begins, which makes it odd, and when it ends or its leader is relieved

	mu      sync.Mutex
	seats   map[int32]*seat // by descriptor
	posted  []*seat         // that have to be looked at without an event
	leading bool            // there is a leader
	waiting bool            // who waits for events, and has to be rung

	// These belong to the leader.
	queue  []*seat // that have to be served, the first at next
	next   int
	events [128]syscall.EpollEvent

	asleep atomic.Bool // the leader waits without a P
	seen   atomic.Uint64
	alert  atomic.Int32 // how many more looks are close
	watch  *time.Timer
}

// How often a busy loop is looked after. Who has to be relieved is rarely alone: when the trail has no room, everybody who
// asks for something waits, and a session that ends meanwhile must not wait behind all of them.
const (
	watchEvery   = 10 * time.Millisecond
	watchClosely = time.Millisecond
	alertLooks   = 20 // that are close, after a leader was relieved
)

// loops are made when they are first needed. One thread can relay some 40,000 small transactions a second; half of the
// processors leaves the others to log-ins, the trail and the kernel.
var loops = sync.OnceValue(func() (all []*loop) {
	processors := runtime.GOMAXPROCS(0)
	for range max(1, processors/2) {
		if l, err := newLoop(); err == nil {
			all = append(all, l)
		}
	}
	if len(all) > 0 {
		runtime.GOMAXPROCS(processors + len(all))
	}
	return all
})

func newLoop() (*loop, error) {
	l := &loop{seats: make(map[int32]*seat)}
	var err error
	l.poll, l.bell, err = newPoll()
	l.watch = time.AfterFunc(time.Hour, l.look)
	l.watch.Stop()
	return l, err
}

// Join takes two connections out of Go's poller and lets one loop serve both, until they are closed. It is for two
// connections each of which is written to when something has come from the other; whoever writes to one from elsewhere may
// do so too. It does nothing where the system has no means for it, and with connections that Wrap could not wrap. Nobody may
// read from or write to them meanwhile.
func Join(a, b net.Conn) {
	first, second := underneath(a), underneath(b)
	if first == nil || second == nil || len(loops()) == 0 {
		return
	}
	l := slices.MinFunc(loops(), func(a, b *loop) int { return a.size() - b.size() })
	one, err := l.seat(first)
	if err != nil {
		return
	}
	other, err := l.seat(second)
	if err != nil {
		one.leave()
		return
	}
	one.move()
	other.move()
}

func (l *loop) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seats)
}

// post has a seat looked at soon.
func (l *loop) post(s *seat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posted = append(l.posted, s)
	if !l.leading {
		l.leading = true
		l.awake()
		go l.lead(l.turn.Load())
	}
	if l.waiting {
		l.waiting = false
		ring(l.bell)
	}
}

// lead takes turns until this goroutine is relieved or there are no seats.
func (l *loop) lead(turn uint64) {
	pprof.SetGoroutineLabels(context.Background()) // whoever began it, it is nobody's
	for l.next < len(l.queue) || l.gather() {
		s := l.queue[l.next]
		l.queue[l.next] = nil
		l.next++
		l.turn.Store(turn + 1)
		s.serve()
		if !l.turn.CompareAndSwap(turn+1, turn+2) {
			return // relieved
		}
		turn += 2
	}
}

// relieve lets another goroutine lead, if the turn is under way. Whoever is about to wait may call it, be it the leader or
// not: at worst a goroutine begins for nothing.
func (l *loop) relieve(turn uint64) bool {
	if turn%2 == 0 || !l.turn.CompareAndSwap(turn, turn+1) {
		return false
	}
	go l.lead(turn + 1)
	return true
}

// awake begins to look after the loop.
func (l *loop) awake() {
	l.asleep.Store(false)
	l.watch.Reset(watchEvery)
}

// look relieves a leader whose turn takes long.
func (l *loop) look() {
	turn := l.turn.Load()
	if l.seen.Swap(turn) == turn && l.relieve(turn) {
		l.alert.Store(alertLooks)
	}
	again := watchEvery
	if l.alert.Add(-1) > 0 {
		again = watchClosely
	} else {
		l.alert.Store(0)
	}
	if !l.asleep.Load() {
		l.watch.Reset(again)
	}
}

// gather fills the queue, and waits until there is something for it. It returns false when there are no seats any more: then
// there is no leader either.
func (l *loop) gather() bool {
	l.queue, l.next = l.queue[:0], 0
	for len(l.queue) == 0 {
		l.mu.Lock()
		l.queue = append(l.queue, l.posted...)
		clear(l.posted)
		l.posted = l.posted[:0]
		l.waiting = len(l.queue) == 0
		if l.waiting && len(l.seats) == 0 {
			l.waiting, l.leading = false, false
			l.asleep.Store(true)
			l.mu.Unlock()
			return false
		}
		l.mu.Unlock()

		n := l.wait(len(l.queue) == 0)
		l.mu.Lock()
		l.waiting = false
		for i := range l.events[:n] {
			event := &l.events[i]
			if s := l.seats[event.Fd]; s != nil && s.tell(event.Events) {
				l.queue = append(l.queue, s)
			}
		}
		l.mu.Unlock()
	}
	return true
}

// wait returns how many events have come. The scheduler interrupts a goroutine that runs for 10 ms, and the garbage
// collector whenever it has to; when it has been twice, and nothing came, the loop is idle.
func (l *loop) wait(block bool) int {
	for interrupted := 0; interrupted < 2; interrupted++ {
		if n, ok := waitHolding(l.poll, l.events[:], block); ok || !block {
			return n
		}
		runtime.Gosched()
	}
	l.asleep.Store(true)
	n, _ := syscall.EpollWait(l.poll, l.events[:], -1) // a signal's handler may interrupt it, then n is -1
	l.awake()
	return max(n, 0)
}
