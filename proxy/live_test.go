package proxy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/proxy"
)

// A log-in looks at one policy. What changes while the client answers the challenge counts before it is let in.
func TestPolicyChangesDuringLogIn(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for name, rule := range map[string]struct {
		change func(g *gate) *policy.Set
		want   string
	}{
		"nothing that concerns the user": {func(g *gate) *policy.Set { return g.policy() }, "ready"},
		"the grant is gone":              {func(g *gate) *policy.Set { return g.policy(none...) }, `FATAL 28000: no live grant for "orders"`},
		"another password": {func(g *gate) *policy.Set {
			return parsePolicy(t, g, strings.Replace(g.policyText(grant("inc-1", time.Hour)), verifiers()[alice], verifiers()[bob], 1))
		}, `FATAL 28P01: password authentication failed for user "alice@example.com"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, db, gateOptions{})
			p, answer := challenged(t, g.target())
			g.live.Put(rule.change(g))
			p.send(answer)
			if got := p.outcome(); got != rule.want {
				t.Errorf("got %s, want %s", got, rule.want)
			}
		})
	}
}

// A grant on an integration that is not there waits for it, and says so to its owner.
func TestIntegrationIsNotServed(t *testing.T) {
	t.Parallel()
	g := startGate(t, database(t, 18), gateOptions{change: func(c *proxy.Config) { c.Integrations = integrations{} }})
	p, answer := challenged(t, g.target())
	p.send(answer)
	if got, want := p.outcome(), `FATAL 57P03: "orders" is not served by this gate at present`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	eventually.True(t, "it is counted", func() bool { return g.metric("hourgate_connections_refused_total", "reason", "not_served") == 1 })
}
