package audit

import (
	"runtime"
	"syscall"
)

// lessUrgent is how much nicer the writer is than the rest of the process (setpriority(2)).
const lessUrgent = 5

// giveWay is called by the writer when it begins. Where there is one processor only, the kernel lets whoever has slept for
// long have it for some milliseconds, and all sessions wait meanwhile: five times a second, which one statement in a
// thousand notices. A thread of lower priority is put aside for them. It gets its share all the same, and when the spool is
// full, they wait for it. Where there are more processors, the writer takes one that is free, and a low priority would only
// have the garbage collector wait for it.
func giveWay(processors int) {
	if processors > 1 {
		return
	}
	runtime.LockOSThread() // for good: the thread ends with the writer
	thread := syscall.Gettid()
	if raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, thread); err == nil {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, thread, 20-raw+lessUrgent) // the system call returns 20 - nice
	}
}
