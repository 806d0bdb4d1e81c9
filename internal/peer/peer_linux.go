package peer

import (
	"net"
	"syscall"
	"time"
	"unsafe"
)

// Vanished reports that the other end of a TCP connection has acknowledged nothing for longer than timeout, although it was
// sent data, or was asked three times whether it has room for more. A peer that is there and reads nothing has not vanished: it
// answers. The longer it has read nothing, the less often Linux asks, up to every two minutes, and one question whose answer is still on
// its way, or that was lost, says nothing: so a peer that vanishes after it has read nothing for a minute is noticed minutes later.
// Layers such as TLS may lie over the connection. It costs one system call, and may be called by any goroutine.
//
// TCP_USER_TIMEOUT would do this without being asked, but it also cuts off peers that only stopped reading: Linux counts the
// time in which a receiver without room acknowledges nothing new (6.18; see TestPeerThatReadsNothing).
func Vanished(conn net.Conn, timeout time.Duration) bool {
	for {
		layer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = layer.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	info, err := tcpInfo(socket)
	if err != nil {
		return false
	}
	unanswered := info.Retransmits > 0 || info.Probes >= probes // any acknowledgement sets both to 0
	return unanswered && time.Duration(info.Last_ack_recv)*time.Millisecond > timeout
}

// tcpInfo is what the kernel knows of a connection, see tcp(7).
func tcpInfo(conn syscall.Conn) (info syscall.TCPInfo, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return info, err
	}
	size := uint32(unsafe.Sizeof(info))
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return info, err
}
