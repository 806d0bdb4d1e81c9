// Package relay passes messages between two connections that have logged in, a client's and a server's, until somebody
// leaves or the session is ended from outside. It follows where messages begin and end, shows those that a [Watcher] asks
// for, and can put a message of its own between two of the server's.
//
// It decodes no message, makes none, and knows nothing of grants, roles or the trail.
//
// Invariants:
//   - Nothing passes upstream before the watcher has seen it and agreed.
//   - Nothing passes upstream after the session's end. To the client passes the rest of the message that it is in, for a
//     moment.
//   - Nothing is allocated and no lock is taken for a message.
package relay
