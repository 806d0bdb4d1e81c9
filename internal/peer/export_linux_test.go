package peer

// TCPInfo is for tests that wait until the kernel has got somewhere.
var TCPInfo = tcpInfo
