// Package gate is the assembled program: the configuration, the fleet of guarded servers, the reload of what may change
// while it runs, the start, and the stop in reverse order. The command line is in cmd/hourgate; what a session or a role
// is, in proxy and roles.
//
// What holds:
//
//   - A bad configuration or policy changes nothing but a gauge and a log line.
//   - An integration that is added, changed or removed touches no session of another one, and none of its own.
//   - The end of the program is bounded, and says what it left to the next start.
package gate
