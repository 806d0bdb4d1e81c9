package proxy

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestReadProxyHeader(t *testing.T) {
	t.Parallel()
	v4 := "\x21\x11\x00\x0c" + "\xc0\x00\x02\x01" + "\x0a\x00\x00\x01" + "\x30\x39" + "\x19\x20"
	v6 := "\x21\x21\x00\x24" + "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07" + strings.Repeat("\x00", 16) + "\x30\x39\x19\x20"
	tests := []struct{ name, header, want, err string }{
		{"IPv4", v4, "192.0.2.1:12345", ""},
		{"IPv6", v6, "[2001:db8::7]:12345", ""},
		{"extensions are passed over", "\x21\x11\x00\x0f" + v4[4:] + "\x04\x00\x00", "192.0.2.1:12345", ""},
		{"health check", "\x20\x00\x00\x00", "invalid AddrPort", ""},
		{"health check with an address", "\x20\x11\x00\x0c" + v4[4:], "invalid AddrPort", ""},
		{"Unix socket", "\x21\x31\x00\x00", "invalid AddrPort", ""},
		{"UDP", "\x21\x12\x00\x0c" + v4[4:], "invalid AddrPort", ""},
		{"version 1", "\x11\x11\x00\x0c" + v4[4:], "", "PROXY protocol version 1, want 2"},
		{"unknown command", "\x22\x11\x00\x0c" + v4[4:], "", "PROXY protocol command 2, want 0 or 1"},
		{"too short for addresses", "\x21\x11\x00\x0b" + v4[4:15], "", "PROXY protocol header is too short for its addresses"},
		{"too long", "\x21\x11\xff\xff", "", "PROXY protocol header of 65535 bytes, want at most 2048"},
		{"cut off", v4[:10], "", "reading PROXY protocol header: unexpected EOF"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := bytes.NewReader(append(bytes.Clone(proxySignature), test.header+"next"...))
			if test.name == "cut off" {
				r = bytes.NewReader(append(bytes.Clone(proxySignature), test.header...))
			}
			got, err := readProxyHeader(r)
			if err != nil || test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Fatalf("got error %v, want %s", err, test.err)
				}
				return
			}
			if got.String() != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "next" {
				t.Errorf("bytes of the client were taken: %q is left", rest)
			}
		})
	}
	if _, err := readProxyHeader(strings.NewReader("\x00\x00\x00\x08\x04\xd2\x16\x2f\x00\x00\x00\x00\x00\x00\x00\x00")); err == nil {
		t.Error("a client without a header was let through")
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add(append(bytes.Clone(proxySignature), "\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x19\x20"...))
	f.Add(append(bytes.Clone(proxySignature), "\x20\x00\x00\x00"...))
	v6 := "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07" + strings.Repeat("\x00", 16) + "\x30\x39\x19\x20"
	f.Add(append(bytes.Clone(proxySignature), "\x21\x21\x00\x24"+v6...))
	f.Add(append(bytes.Clone(proxySignature), "\x21\x21\x00\x27"+v6+"\x04\x00\x00next"...))
	f.Add(append(bytes.Clone(proxySignature), "\x21\x31\x00\x00"...))
	f.Add(append(bytes.Clone(proxySignature), "\x21\x11\x08\x01"+strings.Repeat("x", maxProxyHeader)...))
	f.Add([]byte("PROXY TCP4 192.0.2.1 10.0.0.1 12345 6432\r\n"))
	f.Add(startupPacket(protocol30, "user", "alice"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxFuzzed {
			return
		}
		w := &wire{in: data, cuts: []byte{3, 0, 30}}
		addr, err := readProxyHeader(w)
		want, read, ok := wantedProxyHeader(data)
		if (err == nil) != ok || addr != want || w.at != read || w.asked > max(proxyHeaderLen, maxProxyHeader) {
			t.Fatalf("%q: got %v and %v after %d bytes with room for %d, want %v, %v after %d", data, addr, err, w.at, w.asked, want, ok, read)
		}
	})
}

// wantedProxyHeader sees all at once: the address, how many bytes are the balancer's, and whether it is a header.
func wantedProxyHeader(data []byte) (addr netip.AddrPort, read int, ok bool) {
	if len(data) < 16 {
		return addr, len(data), false
	}
	length := int(data[14])<<8 | int(data[15])
	if string(data[:12]) != "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" || data[12]&0xf0 != 0x20 || length > 2048 {
		return addr, 16, false
	}
	read = min(16+length, len(data))
	block := data[16:read]
	switch {
	case len(block) < length || data[12] > 0x21:
		return addr, read, false
	case data[12] == 0x20:
		return addr, read, true
	case data[13] == 0x11 && length >= 12:
		ip := netip.AddrFrom4([4]byte(block))
		return netip.AddrPortFrom(ip, uint16(block[8])<<8|uint16(block[9])), read, true
	case data[13] == 0x21 && length >= 36:
		ip := netip.AddrFrom16([16]byte(block))
		return netip.AddrPortFrom(ip, uint16(block[32])<<8|uint16(block[33])), read, true
	}
	return addr, read, data[13] != 0x11 && data[13] != 0x21
}
