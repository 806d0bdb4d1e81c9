package proxy

import (
	"errors"
	"net"
	"time"
)

const operatorsPause = time.Second // after a failure to accept

// ServeOperators accepts connections of those who run the gate: from a Unix socket, say, that nobody else can open. They
// need no password and no TLS, and get the console, whatever database they name; their Info says that they are operators. It
// returns when ln is closed, which is the caller's to do. Shutdown and Close end the sessions.
func (s *Server) ServeOperators(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			s.start(conn, true, false)
		case errors.Is(err, net.ErrClosed):
			return
		default: // there may be no descriptor left
			s.log.Error("connection to the admin socket could not be accepted, trying again", "error", err)
			time.Sleep(operatorsPause)
		}
	}
}
