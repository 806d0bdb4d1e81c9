package audit

import (
	"runtime"
	"syscall"
	"testing"
)

// On one processor the writer's thread is less urgent than others, and only it.
func TestGiveWay(t *testing.T) {
	t.Parallel()
	niceness := func(processors int) (before, after int) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // for good, so that no other test gets the thread
			raw, _ := syscall.Getpriority(syscall.PRIO_PROCESS, syscall.Gettid())
			before = 20 - raw
			giveWay(processors)
			raw, _ = syscall.Getpriority(syscall.PRIO_PROCESS, syscall.Gettid())
			after = 20 - raw
		}()
		<-done
		return before, after
	}
	for processors, want := range map[int]int{1: lessUrgent, 2: 0} {
		if before, after := niceness(processors); after != min(before+want, 19) {
			t.Errorf("%d processors: niceness was %d and is %d, want %d more", processors, before, after, want)
		}
	}
}
