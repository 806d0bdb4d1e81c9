package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/secrets"
)

// A gate that can't open lets nobody in. The one before it, which was killed, may have left statements and roles, which go on until
// somebody ends them: that needs the servers and the admin's secret, and none of what keeps the gate shut, such as a trail that is
// damaged or a policy that is wrong. See docs/decisions/0060.

const (
	// openPatience is how long it may take to open the trail and the state before somebody looks at the servers meanwhile.
	openPatience = 2 * time.Second
	// abandonedLimit is how long a program that does not open stays for that: longer than a gate is only suspected to be dead.
	abandonedLimit = 30 * time.Second
)

// EndAccess ends what a gate of the deployment has left on the servers, for a program that will not open. set is the policy, nil if
// that is what is wrong. It says in the log what it did and could not do.
func EndAccess(ctx context.Context, cfg Config, set *policy.Set, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, abandonedLimit)
	defer cancel()
	endAbandoned(ctx, cfg, set, log, false)
}

// endAbandoned does so for the integrations of the configuration of which the settings can be used; with stay, until ctx is done.
// Those that discovery finds are not among them.
func endAbandoned(ctx context.Context, cfg Config, set *policy.Set, log *slog.Logger, stay bool) {
	if cfg.doc == nil { // paths and defaults are not what they should be
		return
	}
	w := wiring{log: log, peers: cfg.PeerTimeout, secrets: new(secrets.Opener), admins: new(admins), roles: roles.Config{
		Process: roles.NewProcess(), Deployment: cfg.Deployment, Trail: shutTrail{}, Logger: log, Metrics: roles.NewMetrics(prometheus.NewRegistry()),
	}}
	if set != nil {
		w.roles.Policy = policy.NewLive(set)
	}
	var ending sync.WaitGroup
	for _, i := range cfg.Integrations {
		ending.Go(func() {
			m, err := w.open(ctx, i, false)
			if err == nil {
				err = m.keeper.EndAbandoned(ctx, stay)
				closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
				defer cancel()
				err = errors.Join(err, m.keeper.Close(closing))
				m.stop()
			}
			if err != nil && ctx.Err() == nil {
				log.Warn("what another gate has left on a server could not be ended", "integration", i.Name, "error", err)
			}
		})
	}
	ending.Wait()
}

// shutTrail takes no record: nothing that has to be announced happens.
type shutTrail struct{}

func (shutTrail) Append(audit.Record) error { return errors.New("the trail is not open") }

// unopened ends what another gate has left, and closes what New has opened.
func (g *Gate) unopened(ctx context.Context, err error) error {
	EndAccess(ctx, g.cfg, g.policies.inFiles(), g.log)
	return errors.Join(err, g.close())
}

// New opens everything that can be opened without talking to a server that is guarded. version is shown in the log and in a
// metric. While a disk does not answer it looks after what another gate has left; if it fails, too.
func New(ctx context.Context, cfg Config, set *policy.Set, version string, log *slog.Logger) (*Gate, error) {
	type result struct {
		gate *Gate
		err  error
	}
	opened := make(chan result, 1)
	go func() {
		g, err := open(ctx, cfg, set, version, log)
		opened <- result{g, err}
	}()
	meanwhile, stop := context.WithCancel(ctx)
	defer stop()
	var ended chan struct{}
	patience := time.NewTimer(openPatience)
	defer patience.Stop()
	for {
		select {
		case r := <-opened:
			stop()
			if ended != nil {
				<-ended
			}
			if r.err != nil {
				EndAccess(ctx, cfg, set, log)
			}
			return r.gate, r.err
		case <-patience.C:
			log.Error("the gate does not open yet, as when a disk does not answer: what another gate has left on the servers is ended meanwhile",
				"audit_file", cfg.Audit.File)
			ended = make(chan struct{})
			go func() {
				defer close(ended)
				endAbandoned(meanwhile, cfg, set, log, true)
			}()
		case <-ctx.Done():
			select {
			case r := <-opened:
				return r.gate, r.err
			case <-time.After(openPatience):
				return nil, fmt.Errorf("opening the trail and the state: %w", audit.ErrStalled)
			}
		}
	}
}
