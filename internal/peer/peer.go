// Package peer finds out that the other end of a connection has vanished: a machine without power, a network that drops
// everything, a firewall that has forgotten the connection. It does not look at what is sent.
package peer

import (
	"net"
	"time"
)

// DefaultTimeout is how long a peer may be silent that should have answered.
const DefaultTimeout = 20 * time.Second

// probes is how many in a row a peer must not answer.
const probes = 3

// KeepAlive makes reads of a silent TCP connection fail when its other end has not answered for about timeout. It does nothing
// while data is on its way: see [Vanished]. Connections that are not TCP are left alone.
func KeepAlive(conn net.Conn, timeout time.Duration) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: atLeastASecond(timeout / 2), Interval: atLeastASecond(timeout / 2 / probes), Count: probes,
		})
	}
}

// atLeastASecond is for the kernel, which counts whole seconds and takes none for its default.
func atLeastASecond(d time.Duration) time.Duration { return max(d, time.Second) }
