// Package secrets says where the admin credential of an integration comes from (AWS Secrets Manager, a file, an
// environment variable, a command, HashiCorp Vault, IAM tokens of RDS), keeps it in memory, follows its rotation, and keeps it out of everything that is
// printed. It does not log in anywhere: [Store.Use] hands the credential to a function of the caller's.
//
// Invariants:
//
//   - A secret is never written to disk, and never in an error, a log line or any output of fmt, slog or
//     encoding/json. A document that can't be used is named, never quoted.
//   - What the document says about hosts, ports and databases is not used: who may write a secret may not decide
//     which server gets its password.
//   - While the store is down, the last credential stays in use, however old.
//   - A rejected log-in leads to a bounded number of further ones, then to a back-off; never to a loop.
//
// The command source kills the whole process group of its command, so the package builds on Unix only.
package secrets
