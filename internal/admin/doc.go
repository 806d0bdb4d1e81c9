// Package admin holds the admin's connections to one server: log-in with the newest secret that works, a small pool,
// failover, transactions, quoting, and the SQLSTATEs that are acted upon.
//
// The admin is the PostgreSQL user in the integration's secret. People's traffic never runs over its connections. The
// package knows nothing of grants, roles or sessions: what the admin does is said in packages roles and roles/settle.
package admin
