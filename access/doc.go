// Package access is what becomes of a person's wish for access: it is asked for, decided, in force, extended, and ended.
//
// It keeps requests, decisions, extensions, reviews and locks in a [Store] and puts what follows from them into the policy
// in force, beside the grants of the policy files. It does not decide who may what: package policy does, by the flows that
// are in force at that moment. It speaks no protocol: packages around it do.
//
// What holds:
//
//   - Nothing becomes access without a decision that the policy in force allows, and nobody decides their own request;
//     break-glass is the exception, which is short and owes a review by somebody else.
//   - A request changes by compare-and-swap only: of two deciders, two replicas or two clicks, one wins, and the other is
//     told what has happened.
//   - An end never moves later without a decision. It moves earlier by its owner, by revocation, or when the flow in force
//     allows less.
//   - What is done is in the trail before it is in the store. What the trail does not take does not happen, but for what
//     ends access.
//   - When the store can't be reached, grants from requests take no new sessions after a short while, and those that are
//     live end at their known end at the latest. Locks of this machine work without it.
package access
