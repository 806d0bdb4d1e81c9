package relay

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/hourgate/hourgate/internal/burst"
)

// Why a relay ends by itself. A watcher's error and the cause of the context are the others; see [End].
var (
	ErrClientGone    = errors.New("client disconnected")
	ErrClientQuit    = errors.New("client terminated the session")
	ErrUpstreamEnded = errors.New("upstream ended the session after an ErrorResponse")
	ErrUpstreamGone  = errors.New("upstream closed the connection unexpectedly")
	ErrMessageLength = errors.New("client sent a message with a length that can't be")
	ErrDrained       = errors.New("session was idle during a drain")
)

// errUpstreamDeaf ends one direction only: whether the server still speaks, the other one finds out.
var errUpstreamDeaf = errors.New("upstream takes nothing any more")

// End is how a relay ended.
type End struct {
	// Err is one of the errors above, what a Watcher has returned, the cause of Run's context, or a *PanicError. It is
	// never nil.
	Err error
	// ClientAtBoundary says that the client has received whole messages only, and may be sent one more.
	ClientAtBoundary bool
}

// PanicError is a panic that was caught where a goroutine began, so that it ends one session and not the process.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Caught is to be deferred. It hands a panic to then as a *PanicError.
func Caught(then func(error)) {
	switch value := recover().(type) {
	case nil:
	case *burst.Panic:
		then(&PanicError{Value: value.Value, Stack: value.Stack})
	default:
		then(&PanicError{Value: value, Stack: debug.Stack()})
	}
}
