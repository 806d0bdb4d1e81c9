// Package upstream reaches the PostgreSQL server that an integration guards: it dials, negotiates TLS as the
// integration's SSL mode says, and logs in. The admin's connections (package roles), people's connections and
// cancel requests (package proxy) all come through here, so that one policy holds for all three.
//
// It is not a pool, it caches no connection, and it knows nothing of grants.
//
// pgx could negotiate TLS by itself, but its list of fallbacks differs from libpq's sslmode in several cells and
// sends the password again in plaintext after some failures. So this package dials and negotiates by itself and
// hands pgconn a ready connection; see docs/decisions/0003-upstream-package.md.
package upstream
