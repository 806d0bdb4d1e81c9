package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The PROXY protocol, version 2: what a load balancer says about the client before the client's own bytes
// (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt, section 2.2). AWS's Network Load Balancer speaks it.
var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

const (
	proxyHeaderLen = 16

	// maxProxyHeader bounds the addresses and the extensions (TLVs) behind the header, which are not read but passed
	// over. Load balancers send some dozens of bytes; the extensions are the only reason for a header to be longer.
	maxProxyHeader = 2048
)

// readProxyHeader reads a header, and not a byte more, and returns the client's address. It is not valid for a LOCAL
// connection, such as a load balancer's health check, and for protocols other than TCP: then the peer is the client.
func readProxyHeader(r io.Reader) (netip.AddrPort, error) {
	var header [proxyHeaderLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading PROXY protocol header: %w", err)
	}
	if !bytes.Equal(header[:12], proxySignature) {
		return netip.AddrPort{}, errors.New("no PROXY protocol version 2 header")
	}
	if version := header[12] >> 4; version != 2 {
		return netip.AddrPort{}, fmt.Errorf("PROXY protocol version %d, want 2", version)
	}
	length := int(binary.BigEndian.Uint16(header[14:]))
	if length > maxProxyHeader {
		return netip.AddrPort{}, fmt.Errorf("PROXY protocol header of %d bytes, want at most %d", length, maxProxyHeader)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading PROXY protocol header: %w", err)
	}
	switch command := header[12] & 0xf; command {
	case 0: // LOCAL
		return netip.AddrPort{}, nil
	case 1: // PROXY
		return proxiedAddress(header[13], body)
	default:
		return netip.AddrPort{}, fmt.Errorf("PROXY protocol command %d, want 0 or 1", command)
	}
}

// proxiedAddress takes the source address from the address block.
func proxiedAddress(family byte, body []byte) (netip.AddrPort, error) {
	var addrLen int
	switch family {
	case 0x11: // TCP over IPv4
		addrLen = 4
	case 0x21: // TCP over IPv6
		addrLen = 16
	default:
		return netip.AddrPort{}, nil
	}
	if len(body) < 2*addrLen+4 {
		return netip.AddrPort{}, errors.New("PROXY protocol header is too short for its addresses")
	}
	addr, _ := netip.AddrFromSlice(body[:addrLen])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(body[2*addrLen:])), nil
}
