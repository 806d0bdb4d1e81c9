package proxy

import (
	"errors"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/strangers"
)

// slowDown makes a network wait from which many have failed. It is a wait only, and no turn: many people may share it.
func (s *session) slowDown() error { return s.pause(s.server.strangers.Wait(s.network)) }

// guessPatience is the longest time that a guess waits for its turn.
const guessPatience = 30 * time.Second

var errTooManyGuesses = errors.New("too many guesses at once")

// takeTurn waits until a guess at this user's password may be looked at, from this network. The turn is taken before the
// wait, so that many connections together may not guess oftener than one. It is the same for users that exist and users
// that don't.
func (s *session) takeTurn() error {
	left := time.Until(s.began.Add(s.server.limits.Load().LoginTimeout))
	wait, ok := s.server.guesses.Reserve(s.guessKey(), min(guessPatience, max(left, 0)))
	if !ok {
		return s.authenticationFailed(errTooManyGuesses)
	}
	return s.pause(wait)
}

func (s *session) pause(wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ctx.Done():
		return s.startupReadError(s.ctx.Err())
	}
}

func (s *session) guessKey() string { return s.startup.user + "\x00" + s.network }

// authenticationFailed is the same for every way to fail.
func (s *session) authenticationFailed(err error) error {
	s.server.strangers.Failed(s.network)
	s.log.Info("authentication failed", "user", strangers.Printable(s.startup.user), "error", err)
	told := wrongPassword(s.startup.user)
	if strings.HasPrefix(s.startup.user, roleNames) { // known to this gate or not
		told.hint = "Roles on the server have no log-in at the gate. Connect with your own user name: it is given a role."
	}
	return told
}

// roleNames is what the names of ephemeral roles begin with. Who asks for current_user reads such a name, and so do clients
// that connect again as whom they think they are.
const roleNames = "hg_"
