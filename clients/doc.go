// Package clients runs real client programs and drivers through a gate in front of a real PostgreSQL, as `make clients`
// does. It has tests only, behind the build tag clients: they need what scripts/install-clients installs.
//
// # A client
//
// A client is a small script in its own language, in a folder named after that, or a Go function. It is told where to
// connect, and as whom, by environment variables:
//
//	HOURGATE_HOST, HOURGATE_PORT   the gate; the host is the name in the gate's certificate
//	HOURGATE_CA                    a file with the authority of that certificate, in PEM
//	HOURGATE_DATABASE              what to connect to
//	HOURGATE_PASSWORD              everybody's
//	HOURGATE_USER                  may read and write
//	HOURGATE_EXPIRED_USER          had a grant that has ended, and has one for another database
//	HOURGATE_ENDING_USER           may read until the client prints "end"
//
// It prints one line for each thing:
//
//	version <text>             its own version
//	tls <text>                 what it was asked to insist on
//	ok <check>                 the check passed
//	ok <check>: <remark>       it passed, but for something that the client does not have
//	FAIL <check>: <why>        it failed
//	n/a <check>: <why>         the client has nothing of the kind
//	end                        now let the grant of HOURGATE_ENDING_USER end, in a moment
//
// Every client reports every check; a check that is missing has failed.
package clients
