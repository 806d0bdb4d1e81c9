package settle

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// Config is what a Settler needs to know. All fields are required.
type Config struct {
	Integration string // name, for records
	Deployment  string // whose profiles of named objects these are
	Pool        *admin.Pool
	Trail       Trail
	Log         *slog.Logger
	Metrics     Metrics
}

// Trail takes records before the act; *audit.Trail is one.
type Trail interface {
	Append(audit.Record) error
}

// Settler settles the ephemeral roles of one integration. It is safe for concurrent use.
type Settler struct {
	cfg Config

	mu         sync.Mutex
	tombstones map[uint32]string // what held each of them when it was last recorded, by OID

	scrubbing sync.Mutex
	scrubbed  map[string]time.Time // profiles, and when the last scrub of each began; belongs to scrubbing

	evicting sync.Mutex // held while profiles are rid of what members handed to them
}

// New returns a Settler, which talks to the server only when it is asked to.
func New(cfg Config) *Settler {
	return &Settler{
		cfg:        cfg,
		tombstones: make(map[uint32]string),
		scrubbed:   make(map[string]time.Time),
	}
}

// record starts a trail record about a role.
func (st *Settler) record(event audit.Event, r ledger.Role, fill func(*audit.Record)) audit.Record {
	return r.Record(event, st.cfg.Integration, fill)
}

// TombstoneError is a role that can no longer log in, but that can't be dropped while others hold on to it.
type TombstoneError struct {
	Role   string
	HeldBy []string // pg_describe_object's words
}

func (e *TombstoneError) Error() string {
	return fmt.Sprintf("role %s is disabled but can't be dropped, it is held by: %s", e.Role, strings.Join(e.HeldBy, "; "))
}
