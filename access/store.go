package access

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors of stores.
var (
	ErrConflict = errors.New("changed by somebody else meanwhile")
	ErrNotFound = errors.New("no such request")
)

// Refused says why something may not be, to the person who wanted it.
type Refused struct{ Message, Detail, Hint string }

func (r *Refused) Error() string { return r.Message }

func refused(format string, args ...any) *Refused {
	return &Refused{Message: fmt.Sprintf(format, args...)}
}

// A Store keeps what must outlive a process and be shared by replicas. Each method that changes something does it whole
// or not at all, and what it has returned without an error survives a crash. All of a store's changes are in one order:
// the revision, which grows by one with each. Errors are ErrConflict, ErrNotFound, *Refused, or the database's.
type Store interface {
	// Revision is the number of the last change.
	Revision(ctx context.Context) (int64, error)
	// Load reads what a gate has to know, as it is at one moment.
	Load(ctx context.Context) (*Snapshot, error)
	// History tells the history that the store has from another one that had the same revision.
	History(ctx context.Context, revision int64) (History, error)
	// Now is the store's clock, which all replicas go by.
	Now(ctx context.Context) (time.Time, error)

	// Request returns a request, or ErrNotFound.
	Request(ctx context.Context, id int64) (*Request, error)
	// Requests returns what fits the filter, the newest first.
	Requests(ctx context.Context, f Filter) ([]*Request, error)
	// Create keeps a new request and gives it its ID and Version. It is *Refused when the person has as many open requests as
	// limit, and for break-glass when one of theirs has not been reviewed.
	Create(ctx context.Context, r *Request, limit int, announce Announce[*Request]) error
	// Update replaces the request whose ID and Version r has, and raises r.Version; ErrConflict if that is not there any
	// more.
	Update(ctx context.Context, r *Request, announce Announce[*Request]) error
	// Restore applies end to all open requests, puts locks back, and makes the revision and the last ID given to a request
	// at least these, all at once; ErrConflict if the revision is that high already.
	Restore(ctx context.Context, revision, lastID int64, locks []Lock, end func(*Request)) error

	// Lock keeps a lock, in place of one of the same kind and name.
	Lock(ctx context.Context, l Lock, announce Announce[Lock]) error
	// Unlock takes a lock away; ErrNotFound if there is none.
	Unlock(ctx context.Context, kind LockKind, name string, announce Announce[Lock]) error

	// Claim returns messages of a channel that are due, in their order, and makes them due again after the lease, so that no two
	// replicas send one at the same time, and none is lost with a replica. A message is not due before those of its channel
	// and subject that came before it are done.
	Claim(ctx context.Context, channel string, limit int, lease time.Duration) ([]Message, error)
	// Prune forgets messages that were created before a time, and returns them. They are of channels that no gate has any more.
	Prune(ctx context.Context, before time.Time) ([]Message, error)
	// Delay makes a message due again after a while.
	Delay(ctx context.Context, id string, by time.Duration) error
	// Done forgets a message.
	Done(ctx context.Context, id string) error

	// Watch calls changed when somebody has changed something, perhaps this process, perhaps more often than that. It is a
	// hint that can be lost; Watch returns when ctx is done.
	Watch(ctx context.Context, changed func())

	Close() error
}

// Announce is called once a change is certain to be possible and before it is made, with what will be kept. It records the
// change; the messages are kept with it. With an error the change is not made.
type Announce[T any] func(T) ([]Message, error)

// A Snapshot is what a gate has to know.
type Snapshot struct {
	Revision int64
	Token    string // of the change that made it, see History; empty where no change has been made
	LastID   int64
	Now      time.Time  // by the store's clock
	Open     []*Request // whose state is Open, by ID
	Locks    []Lock
}

// A History is what a store says of one of its revisions.
type History struct {
	Token    string // that the change to this revision got; empty if the store has it not, or not any more
	Oldest   int64  // the first revision whose token is known; 0 if none is
	Restored int64  // the last revision that was made by Restore; 0 if none was
}

// A Filter chooses requests. Zero values choose all.
type Filter struct {
	User       string
	Open       bool // only those whose state is
	OwesReview bool // only uses of break-glass without a review
	Limit      int  // at most; 0 means 200
}

// DefaultLimit is the most that a Filter returns that does not say otherwise.
const DefaultLimit = 200

// A Message is what is to be told to the world, once at least. Its ID stays the same when it is sent again.
type Message struct {
	ID       string
	Channel  string // which of the configured ones
	Subject  string // what it is about: messages about the same come in order
	Attempts int
	Created  time.Time
	Body     []byte // JSON
}
