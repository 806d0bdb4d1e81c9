// Package roles makes and removes the ephemeral database roles of one integration.
//
// A Keeper makes one login role for each person and grant that is in use, keeps it while sessions need it, and settles
// it when the grant ends: sessions terminated, log-in disabled, what the role left behind removed, the role dropped and
// its absence verified. What a crash leaves is found by the sweep, since the database itself is the ledger: a role's
// name, COMMENT and VALID UNTIL say whose it is.
//
// Ephemeral roles hold almost nothing themselves. What an access level allows is granted once to a NOLOGIN profile role
// for each database and level, and an ephemeral role is a member of it: the cost of a grant does not depend on the
// number of tables. See docs/decisions/0002-profiles.md.
//
// The package does not relay, does not decide who gets access, and never acts as the admin on a person's behalf.
//
// Invariants:
//   - Settling needs only one connection to the server that is open already, neither the secret nor a free slot.
//   - Access is closed whatever else fails; evidence is written before it is erased.
//   - Nothing is ever handed to the admin: REASSIGN OWNED to it would make the tenant's SECURITY DEFINER functions the
//     admin's.
package roles
