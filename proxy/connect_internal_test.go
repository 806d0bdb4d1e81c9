package proxy

import (
	"context"
	"errors"
	"testing"

	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
)

type lost struct{ Lease }

func (lost) Login() upstream.Login { return upstream.Login{User: "hg_alice"} }

// What the end of a session breaks off may fail a moment before the log-in's own context has heard of that end: the client is told
// of the end, and not of a server that can't be reached.
func TestEndIsToldThoughTheLoginHasNotHeardOfIt(t *testing.T) {
	t.Parallel()
	server, err := upstream.New(upstream.Config{Host: "localhost", Port: 1, SSLMode: upstream.Require})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{server: new(Server)}
	s.lease, s.integration.Upstream = lost{}, server
	s.ctx, s.end = context.WithCancelCause(t.Context())
	s.end(errGrantRevoked)
	if err := s.connect(t.Context()); !errors.Is(err, errGrantRevoked) {
		t.Errorf("connecting: got %v", err)
	}
	s.integration.Acquire = func(context.Context, string, *policy.Grant, string) (Lease, error) { return nil, context.Canceled }
	if err := s.provision(t.Context()); !errors.Is(err, errGrantRevoked) {
		t.Errorf("providing the role: got %v", err)
	}
}
