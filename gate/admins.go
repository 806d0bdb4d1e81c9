package gate

import (
	"reflect"
	"runtime"
	"slices"
	"sync"
	"weak"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

// admins are the admin's connections to each server. Integrations share those of a server that they reach in the same way, as
// the same admin: so none gets a connection that is less protected, or more powerful, than what its own configuration says.
//
// It keeps nothing alive. What no integration uses any more is forgotten, so that servers and secrets that come and go for years
// leave nothing behind.
type admins struct {
	mu   sync.Mutex
	ways map[string][]way // by host
}

// way is how a server is reached, and as whom.
type way struct {
	server upstream.Config
	secret secrets.Config
	shared weak.Pointer[admin.Shared]
}

// of returns the connections of everybody who reaches a server in that way.
func (a *admins) of(server upstream.Config, secret secrets.Config) *admin.Shared {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.ways[server.Host] {
		if shared := w.shared.Value(); shared != nil && reflect.DeepEqual(w.server, server) && reflect.DeepEqual(w.secret, secret) {
			return shared
		}
	}
	if a.ways == nil {
		a.ways = make(map[string][]way)
	}
	shared := admin.NewShared()
	a.ways[server.Host] = append(a.ways[server.Host], way{server, secret, weak.Make(shared)})
	runtime.AddCleanup(shared, a.forget, server.Host)
	return shared
}

// forget drops the ways to a server that nobody uses any more. The garbage collector calls it, in a goroutine of its own.
func (a *admins) forget(host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := slices.DeleteFunc(a.ways[host], func(w way) bool { return w.shared.Value() == nil })
	if len(left) == 0 {
		delete(a.ways, host)
	} else {
		a.ways[host] = left
	}
}
