package audit

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	announceWait = 5 * time.Second  // of Append for a record that announces an act
	reopenWait   = time.Second      // of Reopen: whoever calls it has policies to reload
	roomWait     = 15 * time.Second // of a statement for room in the spool, or for the disk
	closeWait    = 10 * time.Second
	stallAfter   = time.Second // a disk that has not answered for so long is said to be stalled

	// maxQueue bounds the records that wait in memory while the disk is full or stalled. Ends of sessions and roles don't
	// get there.
	maxQueue = 100_000
)

// task is something for the writer to do, in order.
type task struct {
	body  []byte            // of a record: its line without link and CRC
	entry *entry            // or a statement
	do    func(error) error // or anything else; it is given the error of what came before

	keep bool          // a record of what has happened: tried again until it is written
	last bool          // the writer ends with it
	done chan error    // of capacity 1; nil when nobody waits
	took atomic.Uint32 // who has it: taskWaits, taskTaken, taskWithdrawn
}

const (
	taskWaits = iota
	taskTaken
	taskWithdrawn // whoever waited for it has gone
)

// take says that the writer may do the task.
func (k *task) take() bool { return k.keep || k.took.CompareAndSwap(taskWaits, taskTaken) }

// answer tells whoever waits.
func (k *task) answer(err error) {
	if k.done != nil {
		k.done <- err
	}
}

// queue holds tasks on their way to the writer. Its memory is this process's; statements are in the spool.
type queue struct {
	mu     sync.Mutex
	tasks  []*task
	closed bool
	ready  chan struct{} // of capacity 1
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tasks)
}

// submit hands a task to the writer.
func (q *queue) submit(k *task) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	if len(q.tasks) >= maxQueue {
		return fmt.Errorf("%w, and %d records wait for it", ErrStalled, len(q.tasks))
	}
	q.tasks = append(q.tasks, k)
	signal(q.ready)
	return nil
}

// finish hands the last task to the writer, and says whether it is.
func (q *queue) finish(k *task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.closed = true
	q.tasks = append(q.tasks, k)
	signal(q.ready)
	return true
}

// takeAll empties the queue.
func (q *queue) takeAll() []*task {
	q.mu.Lock()
	defer q.mu.Unlock()
	tasks := q.tasks
	q.tasks = nil
	return tasks
}

// putBack puts tasks before all others.
func (q *queue) putBack(tasks []*task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tasks = append(tasks, q.tasks...)
}

// signal wakes whoever receives from c, now or next.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ask hands a task to the writer and waits for it.
func (t *Trail) ask(ctx context.Context, k *task, limit time.Duration) error {
	k.done = make(chan error, 1)
	if err := t.queue.submit(k); err != nil {
		return err
	}
	return t.await(ctx, k, limit)
}

// await waits for a task until ctx is done or the disk has not answered for longer than limit. A task that the writer has
// not begun by then is withdrawn.
func (t *Trail) await(ctx context.Context, k *task, limit time.Duration) (err error) {
	timer := time.NewTimer(max(limit-t.stalled(), 0))
	defer timer.Stop()
	select {
	case err := <-k.done:
		return err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
		err = ErrStalled
	}
	k.took.CompareAndSwap(taskWaits, taskWithdrawn)
	select {
	case err = <-k.done: // just now
	default:
	}
	return err
}
