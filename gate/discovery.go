package gate

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/policy"
)

// Discover asks all sources of the configuration once. The error is about the configuration of AWS; what could not be asked
// is in the report.
func (c *Config) Discover(ctx context.Context) (discover.Report, error) {
	d, err := discover.New(ctx, c.Discovery, discover.Options{Taken: c.names(), Names: c.Audit.namesFile()})
	if err != nil {
		return discover.Report{}, err
	}
	return d.Once(ctx), nil
}

// AddDiscovered returns the configuration with the integrations that discovery finds now and that can be used, and the
// policy for all of them. It is for the commands that work without a gate. The error is about what could not be asked; what
// is returned beside it is good.
func (c Config) AddDiscovered(ctx context.Context, set *policy.Set) (Config, *policy.Set, error) {
	cfg, set, _, err := c.addDiscovered(ctx, set)
	return cfg, set, err
}

func (c Config) addDiscovered(ctx context.Context, set *policy.Set) (Config, *policy.Set, []State, error) {
	if len(c.Discovery) == 0 {
		return c, set, nil, nil
	}
	report, err := c.Discover(ctx)
	if err != nil {
		return c, set, nil, err
	}
	var unusable []State
	c.Integrations, c.found = slices.Clone(c.Integrations), make(map[string]about)
	databases, known := c.databases(), c.known()
	for _, d := range report.Integrations {
		i, a := fromDiscovery(d)
		databases[i.Name], known.Labels[i.Name], known.NameTags[i.Name] = i.Database, a.labels, a.nameTags
		if a.notReady != "" {
			unusable = append(unusable, State{Name: i.Name, Place: a.place, Server: d.Writer.String(), Labels: plain(a.labels), NotReady: a.notReady})
			continue
		}
		c.found[i.Name] = a
		c.Integrations = append(c.Integrations, i)
	}
	known.Open = true
	now, err := policy.Load(c.Policy, databases, known)
	if err != nil {
		return c, set, unusable, err
	}
	return c, now, unusable, report.Failures()
}

// States looks at each integration, those too that discovery finds now, several at a time. The error is about what could
// not be asked.
func (c Config) States(ctx context.Context, set *policy.Set) ([]State, error) {
	c, set, states, unasked := c.addDiscovered(ctx, set)
	looked := make([]State, len(c.Integrations))
	var looking errgroup.Group
	looking.SetLimit(turns)
	for n, i := range c.Integrations {
		looking.Go(func() error {
			a, ok := c.found[i.Name]
			if !ok {
				a = said(i)
			}
			s := State{Name: i.Name, Place: a.place, Server: net.JoinHostPort(i.Hostname, strconv.Itoa(int(i.Port))), Labels: plain(a.labels)}
			checks, err := c.Preflight(ctx, i, set)
			if failed := failureOf(checks, i.Database); failed != nil {
				s.NotReady, s.SQL = failed.detail, failed.sql
			}
			if err != nil {
				s.NotReady = err.Error()
			}
			looked[n] = s
			return nil
		})
	}
	_ = looking.Wait()
	states = append(states, looked...)
	slices.SortFunc(states, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return states, unasked
}

// namesFile is where it is kept which names discovered servers were given.
func (a Audit) namesFile() string { return a.File + ".names" }

func (c *Config) names() []string {
	var names []string
	for _, i := range c.Integrations {
		names = append(names, i.Name)
	}
	return names
}

// databases are the default databases of the configured integrations.
func (c *Config) databases() map[string]string {
	databases := make(map[string]string)
	for _, i := range c.Integrations {
		databases[i.Name] = i.Database
	}
	return databases
}

func (c *Config) known() policy.Known {
	k := policy.Known{Labels: make(map[string]policy.Labels), NameTags: make(map[string][]string), Readers: make(map[string]bool), Open: len(c.Discovery) > 0}
	for _, i := range c.Integrations {
		k.Readers[i.Name] = len(i.ReaderServers) > 0
		k.Labels[i.Name] = labelsOf(i.Labels, false)
	}
	return k
}

// openDiscovery makes what finds integrations, if any is configured. From then on the policy follows what there is.
func (g *Gate) openDiscovery(ctx context.Context) (err error) {
	if len(g.cfg.Discovery) == 0 {
		return nil
	}
	g.discovery, err = discover.New(ctx, g.cfg.Discovery, discover.Options{Taken: g.cfg.names(), Names: g.cfg.Audit.namesFile(), Log: g.log, Registry: g.registry})
	return err
}

// discover keeps the fleet as discovery finds it, until ctx is done.
func (g *Gate) discover(ctx context.Context) {
	if g.discovery != nil {
		g.discovery.Watch(ctx, func(found []discover.Integration) {
			g.fleet.Sync(ctx, found)
			g.log.Info("integrations discovered", "found", len(found))
		})
	}
}
