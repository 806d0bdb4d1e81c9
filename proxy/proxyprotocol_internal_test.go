package proxy

import (
	"bytes"
	"io"
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
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		addr, err := readProxyHeader(r)
		if err == nil && len(data)-r.Len() > proxyHeaderLen+maxProxyHeader {
			t.Errorf("took %d bytes", len(data)-r.Len())
		}
		if err != nil && addr.IsValid() {
			t.Errorf("an address %s and an error %v", addr, err)
		}
	})
}
