package proxy

import "sync"

// A connection upstream takes three round trips before the first message that says who logs in. Nothing in them depends
// on the user, so they can pass while the client works out its answer to the challenge. But then somebody who has not
// authenticated makes the server fork a process, and these limits bound what that is worth to an attacker. See
// docs/decisions/0013-dial-ahead.md.
const (
	// aheadCredit is how many connections may be opened for clients of one network until one of them is let in, which
	// restores it. A network from which nobody ever was has none.
	aheadCredit = 8

	// aheadInAll is how many clients at a time may have one. PostgreSQL takes twice as many connections that have not
	// authenticated as max_connections.
	aheadInAll = 16

	// aheadNetworks bounds the memory. Only who is let in adds to it.
	aheadNetworks = 10_000
)

// aheadCredits says for whom connections may be opened before they have authenticated.
type aheadCredits struct {
	mu   sync.Mutex
	open int
	left map[string]int // by network
}

func (a *aheadCredits) spend(network string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open >= aheadInAll || a.left[network] == 0 {
		return false
	}
	a.open++
	a.left[network]--
	return true
}

// finished is called once for each that was spent, when it is known who the client is or that it will not be known.
func (a *aheadCredits) finished() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
}

// restore is for a network from which somebody was let in.
func (a *aheadCredits) restore(network string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.left) >= aheadNetworks || a.left == nil {
		a.left = make(map[string]int)
	}
	a.left[network] = aheadCredit
}
