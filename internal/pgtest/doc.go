// Package pgtest runs real PostgreSQL servers, majors 13 to 18, for tests. It is not a fake and not a
// scripted peer: what a test learns here is what PostgreSQL does.
//
// A package that uses it hands its TestMain to [Main]:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// and then asks for what it needs:
//
//	server := pgtest.Start(t, 17)   // shared by the test binary, started at first use
//	db := server.Database(t)        // a database, an owner and an admin user of this test's own
//	conn := db.Superuser(t)
//
// The programs come from scripts/install. A test fails when they are missing; it never skips, because
// a skipped test looks like a passed one. It runs on Linux.
//
// # What a server is like
//
// A server listens on 127.0.0.1, with and without TLS, and asks everyone for a SCRAM-SHA-256 password.
// The superuser, postgres, connects through the Unix socket and needs none. Nothing is flushed to disk,
// but a transaction that was committed survives [Server.Kill].
//
// # What is left behind
//
// Nothing, by three means. Main stops all servers and removes their directories, also on SIGINT and
// SIGTERM. When the test binary dies without a chance to do that, Linux sends the servers a signal that
// ends them. The directories that remain then are removed by the next test binary that starts.
//
// Tests that run as root start the servers as the user postgres, since PostgreSQL refuses to run as root.
package pgtest
