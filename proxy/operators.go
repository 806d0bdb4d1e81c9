package proxy

import (
	"errors"
	"net"
)

// ServeOperators accepts connections of those who run the gate: from a Unix socket, say, that nobody else can open. They
// need no password and no TLS, and get the console, whatever database they name; their Info says that they are operators. It
// returns when ln is closed, which is the caller's to do. Shutdown and Close end the sessions.
func (s *Server) ServeOperators(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			s.start(conn, true)
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			return err
		}
	}
}
