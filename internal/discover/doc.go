// Package discover finds the PostgreSQL servers to guard: DB instances and clusters of Amazon RDS by their tags, and what
// another program has written into a file. It says what there is and where its admin's secret is kept. It connects to no
// PostgreSQL server, fetches no secret and decides nothing about access.
//
// Invariants:
//
//   - What can't be asked keeps its last answer: one account, region or kind that fails disturbs no other.
//   - An integration is known by the server's own identity (the resource id), never by its name. Its name is unique, and
//     no newcomer takes the name of one that is there.
//   - Whoever can tag a server can't choose who gets its labels believed: each label and name says which tags it was made
//     from, and the policy says which tags it trusts.
//   - A tag that names a secret can only name one of the server's own account.
//   - Nothing is left out without a reason that can be read.
//
// The AWS SDK is imported here and in secrets only.
package discover
