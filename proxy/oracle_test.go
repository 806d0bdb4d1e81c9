package proxy_test

import (
	"strings"
	"testing"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// PostgreSQL is the oracle: for the same bytes, all majors and the gate go on, or none does. deviations are the cases in
// which the gate is stricter, and why. It is never less strict.
var deviations = map[string]string{
	"first packet: a StartupMessage in plaintext": "the gate takes encrypted connections only",
	"first packet: SSLRequest with a body":        "a request has no body; PostgreSQL takes it for the request and ignores the rest",
	"first packet: GSSENCRequest with a body":     "a request has no body; PostgreSQL takes it for the request and ignores the rest",

	"first packet: user twice":                         twice,
	"first packet: database twice":                     twice,
	"first packet: a setting twice, in another case":   twice,
	"first packet: options twice":                      twice,
	"first packet: role":                               identity,
	"first packet: role twice":                         twice,
	"first packet: ROLE":                               identity,
	"first packet: session_authorization":              identity,
	"first packet: options: role":                      identity,
	"first packet: options: SESSION_authorization":     identity,
	"first packet: post_auth_delay":                    hides,
	"first packet: options: post_auth_delay":           hides,
	"first packet: options: post-auth-delay":           hides,
	"first packet: local_preload_libraries":            unknown,
	"first packet: options: -- alone":                  notASetting,
	"first packet: options: a debugging switch":        notASetting,
	"initial response: no response at all (length -1)": "every client sends one; PostgreSQL answers with an empty challenge first",
}

const (
	twice       = "PostgreSQL takes the last, others the first: whoever looks must not see another one than whoever acts"
	unknown     = "what is not known to be harmless is not let through"
	identity    = "nobody chooses at log-in as whom their statements run"
	hides       = "it hides a backend that has authenticated from those who look for intruders"
	notASetting = "settings are all that anybody needs of the server's command line"
)

// oracles are PostgreSQL's majors, as raw clients see them.
func oracles(t *testing.T) []target {
	t.Helper()
	var servers []target
	for _, major := range pgtest.Majors() {
		servers = append(servers, serverTarget(t, database(t, major)))
	}
	return servers
}

// compare holds what the gate does against what each server does.
func compare(t *testing.T, servers []target, name string, gate bool, ask func(server target) string) {
	t.Helper()
	reason, deviates := deviations[name], false
	for _, server := range servers {
		switch oracle := ask(server); {
		case gate && !accepted(oracle):
			t.Errorf("the gate accepts what %s refuses: %s", server, oracle)
		case !gate && accepted(oracle) && reason == "":
			t.Errorf("the gate refuses what %s accepts", server)
		case !gate && accepted(oracle):
			deviates = true
		}
	}
	if reason != "" && !deviates {
		t.Errorf("%q is no deviation, strike it out", name)
	}
}

// accepted reports that a client may go on.
func accepted(outcome string) bool { return strings.HasSuffix(outcome, "ready") || outcome == goesOn }

// Each deviation is of a case that there is.
func TestDeviations(t *testing.T) {
	t.Parallel()
	cases := make(map[string]bool)
	add := func(name string) {
		if cases[name] {
			t.Errorf("two cases are called %q", name)
		}
		cases[name] = true
	}
	for _, rule := range firstPackets {
		add("first packet: " + rule.name)
	}
	for _, rule := range initialResponses {
		add("initial response: " + rule.name)
	}
	for name := range deviations {
		if !cases[name] {
			t.Errorf("no case is called %q", name)
		}
	}
}
