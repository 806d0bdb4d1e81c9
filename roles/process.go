package roles

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"

	"github.com/hourgate/hourgate/roles/ledger"
)

// Process is what the keepers of one process have in common: the name by which other processes see in pg_stat_activity that it
// lives. Each keeper has a name of its own besides, since roles are one keeper's. It is safe for concurrent use.
type Process struct {
	name string

	mu      sync.Mutex
	keepers map[string]bool // that run, by name
	last    int             // that was begun
}

// NewProcess returns a process of another name.
func NewProcess() *Process {
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	return &Process{name: hex.EncodeToString(id[:]), keepers: make(map[string]bool)}
}

// begin returns the name of a keeper that begins to run, as the ledger has it.
func (p *Process) begin() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	keeper := p.name + ledger.KeeperSeparator + strconv.Itoa(p.last)
	p.keepers[keeper] = true
	return keeper
}

func (p *Process) end(keeper string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.keepers, keeper)
}

// ended reports that a keeper was one of this process and does not run any more, although the process does.
func (p *Process) ended(keeper string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.HasPrefix(keeper, p.name+ledger.KeeperSeparator) && !p.keepers[keeper]
}
