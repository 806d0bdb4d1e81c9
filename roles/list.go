package roles

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hourgate/hourgate/roles/ledger"
	"github.com/hourgate/hourgate/roles/settle"
)

// Listed is an ephemeral role as it is on the server.
type Listed struct {
	Name       string    `json:"name"`
	OID        uint32    `json:"oid"`
	User       string    `json:"user"`
	Grant      string    `json:"grant"`
	Deployment string    `json:"deployment"`
	Until      time.Time `json:"until"`
	Sessions   int       `json:"sessions"`
	State      string    `json:"state"` // live, orphan (no proxy answers for it) or tombstone (it can't log in any more)
}

// List reads the roles of all deployments from the server.
func (k *Keeper) List(ctx context.Context) ([]Listed, error) {
	orphans, err := readLedger(ctx, k.pool)
	if err != nil {
		return nil, err
	}
	var listed []Listed
	for _, o := range orphans {
		e, ok := ledger.Parse(o.Comment)
		if !ok {
			continue
		}
		l := Listed{Name: o.Name, OID: o.OID, User: e.User, Grant: e.Grant, Deployment: e.Deployment, Until: e.Until, Sessions: o.Sessions, State: "orphan"}
		switch {
		case !o.CanLogin:
			l.State = "tombstone"
		case o.Alive:
			l.State = "live"
		}
		listed = append(listed, l)
	}
	return listed, nil
}

// ErrNoRole is returned by Settle for a name that is no role of this deployment.
var ErrNoRole = errors.New("roles: no role of this deployment")

// Settle settles a role by name, also one that a proxy answers for: that proxy's sessions under it end, and its next one
// gets another role.
func (k *Keeper) Settle(ctx context.Context, name string) error {
	orphans, err := readLedger(ctx, k.pool)
	if err != nil {
		return err
	}
	for _, o := range orphans {
		if e, ok := ledger.Parse(o.Comment); ok && o.Name == name && e.Deployment == k.cfg.Deployment {
			return k.settle(ctx, settle.End{Role: ledger.Role{Name: o.Name, OID: o.OID, Entry: e}, Once: true}, nil)
		}
	}
	return fmt.Errorf("%w: %s", ErrNoRole, name)
}
