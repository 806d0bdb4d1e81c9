package gate

import (
	"reflect"
	"sync"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

// admins are the admin's connections to each server. Integrations share those of a server that they reach in the same way, as
// the same admin: so none gets a connection that is less protected, or more powerful, than what its own configuration says.
type admins struct {
	mu   sync.Mutex
	ways map[string][]way // by host
}

// way is how a server is reached, and as whom.
type way struct {
	server upstream.Config
	secret secrets.Config
	shared *admin.Shared
}

// of returns the connections of everybody who reaches a server in that way.
func (a *admins) of(server upstream.Config, secret secrets.Config) *admin.Shared {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.ways[server.Host] {
		if reflect.DeepEqual(w.server, server) && reflect.DeepEqual(w.secret, secret) {
			return w.shared
		}
	}
	if a.ways == nil {
		a.ways = make(map[string][]way)
	}
	w := way{server, secret, admin.NewShared()}
	a.ways[server.Host] = append(a.ways[server.Host], w)
	return w.shared
}
