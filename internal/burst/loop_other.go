//go:build !linux || !(amd64 || arm64) || portable

package burst

import (
	"net"
	"syscall"
	"time"
)

// Join does nothing: there are no loops here.
func Join(net.Conn, net.Conn) {}

// seat is nobody's place.
type seat struct{ syscall.RawConn }

func (*seat) serveAll(*receiver)         {}
func (*seat) left(int, int) int          { return unknown }
func (*seat) write([]byte) (int, error)  { return 0, net.ErrClosed }
func (*seat) setReadDeadline(time.Time)  {}
func (*seat) setWriteDeadline(time.Time) {}
func (*seat) close() error               { return net.ErrClosed }
