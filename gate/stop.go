package gate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hourgate/hourgate/audit"
)

// A stop is bounded. What a server or a disk holds up is left where it is and named; the next start goes on with it.
const (
	// settleTimeout is how long roles may take to be settled, after the last session has ended.
	settleTimeout = 10 * time.Second
	// goodbyeTimeout is how long the fleet may take to come back after that: connections to servers are closed.
	goodbyeTimeout = 3 * time.Second
	// filesTimeout is how long what runs beside the sessions may take to end, and how long the state may take to be closed while
	// or after the trail is. None of it has anything to do then, so only a disk can hold it up.
	filesTimeout = 3 * time.Second
)

// part is something of the program that runs beside the sessions.
type part struct {
	name  string // of what holds it up, if anything does
	ended chan struct{}
}

// begin runs a part.
func begin(name string, run func()) part {
	p := part{name, make(chan struct{})}
	go func() {
		defer close(p.ended)
		run()
	}()
	return p
}

// await waits for parts to end, and names those that don't within a limit.
func await(limit time.Duration, parts ...part) (left []string) {
	over := make(chan struct{})
	timer := time.AfterFunc(limit, func() { close(over) })
	defer timer.Stop()
	for _, p := range parts {
		select {
		case <-p.ended:
		case <-over:
			select {
			case <-p.ended: // long ago
			default:
				left = append(left, p.name)
			}
		}
	}
	return left
}

// drain lets sessions finish their transactions, then settles all roles.
func (g *Gate) drain() (left []string) {
	timeout := time.Duration(g.drainTimeout.Load())
	g.log.Info("draining", "timeout", timeout)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := g.server.Shutdown(ctx); err != nil {
		g.log.Warn("sessions were cut off at the end of the drain", "error", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	left = await(settleTimeout+goodbyeTimeout, begin("the servers' secrets", func() { g.fleet.Close(ctx) }))
	g.log.Info("gate closed")
	return left
}

// finish ends what runs beside the sessions, and closes state and trail. left are parts that have been given up already.
func (g *Gate) finish(running []part, left []string) error {
	left = append(left, await(filesTimeout, running...)...)
	closed := make(chan error, 1)
	state := begin("the state", func() { closed <- g.closeState() })
	err := errors.Join(g.trail.Append(audit.Record{Event: audit.ProxyStopped}), g.closeTrail())
	if late := await(filesTimeout, state); len(late) > 0 {
		left = append(left, late...)
	} else {
		err = errors.Join(err, <-closed)
	}
	if len(left) > 0 {
		g.log.Error("the gate stops without what a disk holds up: access has ended, and the next start goes on", "held_up", left)
		err = errors.Join(err, fmt.Errorf("stopping without %s: the disk does not answer", strings.Join(left, ", ")))
	}
	return err
}

// closeTrail closes the trail, or says what of it is left.
func (g *Gate) closeTrail() error {
	err := g.trail.Close()
	if errors.Is(err, audit.ErrStalled) {
		s := g.trail.Status()
		g.log.Error("the gate stops while the trail's disk does not answer: what is in the spool gets into the trail with the next start",
			"file", g.cfg.Audit.File, "spool_bytes", s.Spooled, "records_lost", s.Queued, "stalled", s.Stalled)
		err = fmt.Errorf("closing the trail %s: %w", g.cfg.Audit.File, err)
	}
	return err
}

// close closes what New has opened.
func (g *Gate) close() error { return errors.Join(g.closeState(), g.trail.Close()) }

func (g *Gate) closeState() error {
	var err error
	for _, c := range g.closers {
		err = errors.Join(err, c())
	}
	if err != nil {
		g.log.Error("the state could not be closed as it should", "error", err)
	}
	return err
}
