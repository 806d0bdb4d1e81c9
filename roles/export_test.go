package roles

import (
	"time"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

// Withdraw ends the grant of a role of this process, as a policy without it would.
func (k *Keeper) Withdraw(role string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.ours[role]; l != nil && !l.over {
		l.until = time.Time{}
		l.retire()
	}
}

// Crash ends the process without a word to the server but the end of its connections.
func (k *Keeper) Crash() {
	k.unwatch()
	k.mu.Lock()
	k.closed = true
	for _, l := range k.ours {
		l.lost = true
		l.close()
	}
	k.mu.Unlock()
	k.tended.Wait()
	k.end()
	k.pool.Close()
}

// Application is the name of the process's admin connections.
func (k *Keeper) Application() string { return ledger.Application(k.cfg.Deployment, k.proxy) }

// Forget has the integration be one that nobody has used for long.
func (k *Keeper) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.used = time.Time{}
}

// Heeded reports whether what tends a role of this process has noticed all that there was to notice.
func (k *Keeper) Heeded(role string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.ours[role]
	return l == nil || len(l.woken) == 0
}

// Before has fn called before each statement of the admin. To be set before the keeper is used.
func (k *Keeper) Before(fn func(statement string)) {
	k.pool.Before = func(_ *admin.Conn, statement string) error { fn(statement); return nil }
}
