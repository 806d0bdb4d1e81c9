package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/roles/preflight"
)

// Finding is one line of `hourgate doctor`: a check of roles, and what mends it where that is no SQL.
type Finding struct {
	Integration string `json:"integration,omitempty"`
	preflight.Check
	Mend string `json:"mend,omitempty"`
}

// doctor collects findings.
type doctor struct {
	cfg      Config
	set      *policy.Set
	now      time.Time
	findings []Finding
}

func (d *doctor) add(integration, name string, status preflight.Status, mend, format string, args ...any) {
	d.findings = append(d.findings, Finding{Integration: integration, Mend: mend, Check: preflight.Check{Name: name, Status: status, Detail: fmt.Sprintf(format, args...)}})
}

// Doctor looks at everything that a gate with this configuration depends on, on this machine and on the servers. It changes
// nothing. Run it as the user that the gate runs as: what that user can't read is what it finds. The error is that of Load;
// what could be looked at nevertheless was.
func Doctor(ctx context.Context, file string) ([]Finding, error) {
	cfg, set, err := Load(file)
	d := &doctor{cfg: cfg, set: set, now: time.Now()}
	d.files(file, err)
	if len(cfg.Integrations) == 0 {
		return d.findings, err
	}
	if os.Geteuid() == 0 {
		d.add("", "user", preflight.Warn, "sudo -u hourgate hourgate doctor …", "this is root, who can read what the gate's user may not be able to")
	}
	d.certificate()
	d.ports(ctx)
	d.trail()
	d.state(ctx)
	for _, i := range cfg.Integrations {
		d.integration(ctx, i)
	}
	return d.findings, err
}

// files is `hourgate check`.
func (d *doctor) files(file string, err error) {
	var problems strictyaml.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			d.add("", "configuration", preflight.Fail, "", "%s", p)
		}
	case err != nil:
		d.add("", "configuration", preflight.Fail, "", "%v", err)
	default:
		d.add("", "configuration", preflight.OK, "", "%s and what it names can be read: %d integration(s)", file, len(d.cfg.Integrations))
	}
	if d.set == nil {
		return
	}
	users, _ := d.set.Size()
	live, future, ended := d.set.Count(d.now)
	const counts = "%d user(s); grants: %d live, %d to come, %d ended"
	switch {
	case err != nil:
	case live == 0:
		d.add("", "policy", preflight.Warn, "a grant whose time has come and not ended", counts+": nobody gets in", users, live, future, ended)
	default:
		d.add("", "policy", preflight.OK, "", counts, users, live, future, ended)
	}
}

// integration looks at one server: the way to it, the secret, the clock, and what preflight looks at.
func (d *doctor) integration(ctx context.Context, i Integration) {
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	if !d.reach(ctx, i) || !d.secret(ctx, i) {
		return // what comes next would say the same again
	}
	keeper, err := d.cfg.Keeper(ctx, i, nil)
	if err != nil {
		d.add(i.Name, "admin", preflight.Fail, "", "%v", err)
		return
	}
	defer keeper.Close(ctx) //nolint:errcheck // it has made no role
	checks := keeper.Preflight().Checks(ctx, d.set.Databases(i.Name))
	for _, c := range checks {
		d.findings = append(d.findings, Finding{Integration: i.Name, Check: c})
	}
	if len(checks) > 0 && checks[0].Status == preflight.OK {
		d.clock(ctx, i, keeper)
	}
}

// Bounds of the difference between our clock and a server's. A role's VALID UNTIL is by the server's, a session's end by
// ours: where they differ, one of the two comes early, and the earlier counts.
const (
	clockWarn = time.Second
	clockFail = 30 * time.Second
)

func (d *doctor) clock(ctx context.Context, i Integration, keeper *roles.Keeper) {
	ahead, within, err := keeper.Preflight().Clock(ctx)
	if err != nil {
		d.add(i.Name, "clock", preflight.Fail, "", "%v", err)
		return
	}
	d.difference(i.Name, ahead, within)
}

// difference judges by how much a server's clock is ahead of ours, where that is known to within so much.
func (d *doctor) difference(integration string, ahead, within time.Duration) {
	status, mend := preflight.OK, ""
	if off := ahead.Abs() - within; off > clockWarn {
		status, mend = preflight.Warn, "NTP on this machine: timedatectl set-ntp true"
		if off > clockFail {
			status = preflight.Fail
		}
	}
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	d.add(integration, "clock", status, mend, "the server's is %s %s ours, give or take %s", ahead.Abs().Round(time.Millisecond), direction, within.Round(time.Millisecond))
}
