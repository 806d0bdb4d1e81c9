package gate

import "github.com/hourgate/hourgate/policy"

// Live is the policy in force, for tests that look behind the surface.
func (g *Gate) Live() *policy.Live { return g.live }
