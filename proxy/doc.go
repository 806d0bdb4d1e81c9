// Package proxy is the gate: it ends clients' TLS, authenticates people, asks the policy, obtains an ephemeral role,
// logs in upstream as that role, and relays whole messages until somebody leaves or the grant ends.
//
// It does not make or remove roles (package roles does), it does not parse SQL, and it never derives who somebody is
// from bytes that they send after they have authenticated.
//
// A session, in the protocol's own words (https://www.postgresql.org/docs/current/protocol-flow.html):
//
//	client                         Hourgate                                   upstream
//	  │ SSLRequest, or TLS at once    │                                           │
//	  │──────────────────────────────▶│ negotiate                                 │
//	  │◀─────── TLS handshake ───────▶│                                           │
//	  │ StartupMessage                │                                           │
//	  │──────────────────────────────▶│                                           │
//	  │◀───── SCRAM-SHA-256(-PLUS) ──▶│ authenticate        dial ◀─── TCP, TLS ──▶│ see ahead.go
//	  │                               │ authorize: policy.Set.Decide              │
//	  │                               │ provision: the grant's ephemeral role     │
//	  │                               │ connect ◀─────── SCRAM as that role ─────▶│
//	  │ ParameterStatus, BackendKeyData, ReadyForQuery                            │
//	  │◀──────────────────────────────│ welcome                                   │
//	  │◀────────────────────────── relay, whole messages ────────────────────────▶│
//	  │ ErrorResponse 57P01           │ the grant's end                           │
//	  │◀──────────────────────────────│ settle: the role is released and removed  │
//
// Invariants:
//   - Before the relay, bytes are read with exact lengths and never across a change of state, so nothing that was sent
//     in plaintext is taken for something encrypted, and nothing sent before authentication for something after it.
//   - No allocation is made in proportion to a declared length before authentication.
//   - What a client is told comes from the closed table in errors.go, or from PostgreSQL itself, untouched.
//   - Refusals and starts are in the trail before they happen.
package proxy
