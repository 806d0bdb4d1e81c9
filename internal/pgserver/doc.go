// Package pgserver runs a throw-away PostgreSQL on this machine, with certificates of an authority of its own, for the
// demo and the benchmarks. It is not for tests, which have internal/pgtest.
package pgserver
