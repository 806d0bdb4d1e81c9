// Package settle ends one ephemeral role: sessions terminated, log-in disabled, what the role left behind removed, the role
// dropped and its absence verified. It also rids profiles and named roles of what members left with them.
//
// It does not decide when a role ends; package roles does.
package settle
