package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// startupPacket is a StartupMessage with its length word.
func startupPacket(version uint32, pairs ...string) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), version)
	for _, s := range pairs {
		b = append(append(b, s...), 0)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// A declared length allocates nothing beyond PostgreSQL's bound, and not a byte too many is read.
func TestReadStartupPacketIsBounded(t *testing.T) {
	t.Parallel()
	for _, length := range []uint32{0, 1, 7, maxStartupPacket + 5, 1 << 30, 0xffffffff} {
		r := bytes.NewReader(binary.BigEndian.AppendUint32(nil, length))
		if packet, err := readStartupPacket(r, nil); !errors.Is(err, errDisconnect) || packet != nil {
			t.Errorf("length %d: got %d bytes, %v; want errDisconnect", length, len(packet), err)
		}
	}
	behind := append(startupPacket(protocol30, "user", "a"), "behind"...)
	r := bytes.NewReader(behind)
	if _, err := readStartupPacket(r, nil); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "behind" {
		t.Errorf("left %q, want what was behind the packet", rest)
	}
	// A length of 10,004 with nothing behind it costs 10 kB and no more.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = readStartupPacket(bytes.NewReader([]byte{0, 0, 0x27, 0x14}), nil)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 { // other tests allocate too
		t.Errorf("%d bytes allocated", grown)
	}
}

func FuzzStartupPacket(f *testing.F) {
	f.Add(startupPacket(protocol30, "user", "alice", "database", "orders", "options", "-c geqo=off"))
	f.Add(startupPacket(3<<16|9999, "user", "alice", "_pq_.test", ""))
	f.Add(startupPacket(protocol30, "user", "x", "application_name", "x\x00user\x00admin"))
	f.Add(startupPacket(4 << 16))
	f.Add([]byte{0, 0, 0, 8, 4, 210, 22, 47})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		packet, err := readStartupPacket(bytes.NewReader(stream), nil)
		if err != nil {
			if !errors.Is(err, errDisconnect) {
				t.Fatalf("refused with %v, want silence", err)
			}
			return
		}
		if len(packet)+4 > len(stream) || len(packet) > maxStartupPacket || len(packet) < 4 {
			t.Fatalf("a packet of %d bytes out of %d", len(packet), len(stream))
		}
		s, err := parseStartupMessage(packet)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if s.user == "" || s.cancel != nil || s.protocol < protocol30 || s.protocol > protocolLatest {
			t.Fatalf("accepted %+v", s)
		}
		if (len(s.unrecognized) > 0 || binary.BigEndian.Uint32(packet) > protocolLatest) != s.negotiate {
			t.Fatalf("negotiation is due: %v, of %+v", s.negotiate, s)
		}
		for _, text := range append([]string{s.user, s.database, s.application}, s.unrecognized...) {
			if strings.Contains(text, "\x00") {
				t.Fatalf("NUL in %q", text)
			}
		}
		checkParameters(t, s.params)
		// Nothing that the server gets comes from anywhere but one parameter of the client's.
		if count := bytes.Count(packet, []byte{0}); len(s.params) > count {
			t.Fatalf("%d parameters out of %d strings", len(s.params), count)
		}
	})
}

// checkParameters: only what is on the list goes upstream, under the list's own spelling.
func checkParameters(t *testing.T, params map[string]string) {
	t.Helper()
	for name, value := range params {
		if !allowedParameters[name] {
			t.Fatalf("parameter %q is let through", name)
		}
		if strings.Contains(value, "\x00") {
			t.Fatalf("NUL in the value %q of %q", value, name)
		}
	}
}

// checkRefusal: a client is told something that is printable, or nothing.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	var r *refusal
	switch {
	case errors.Is(err, errDisconnect):
	case !errors.As(err, &r):
		t.Fatalf("%v is no refusal", err)
	case r.code == "" || r.message == "" || r.reason == "":
		t.Fatalf("%+v lacks a field", r)
	case strings.ContainsFunc(r.message+r.detail+r.hint, func(c rune) bool { return c < ' ' || c == 0x7f }), !utf8.ValidString(r.message + r.detail + r.hint):
		t.Fatalf("%+v is not printable", r)
	default:
		if _, err := r.response().Encode(nil); err != nil {
			t.Fatalf("%+v can't be encoded: %v", r, err)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, rule := range []struct {
		options string
		want    map[string]string // nil for a refusal
	}{
		{"", map[string]string{}},
		{"  \t ", map[string]string{}},
		{"-c geqo=off", map[string]string{"geqo": "off"}},
		{"-cgeqo=off", map[string]string{"geqo": "off"}},
		{"--geqo=off", map[string]string{"geqo": "off"}},
		{"-c  geqo=off\n-c\tjit=on", map[string]string{"geqo": "off", "jit": "on"}},
		{"--lock-timeout=1 -c statement-timeout=2", map[string]string{"lock_timeout": "1", "statement_timeout": "2"}},
		{"-c LOCK_timeout=1", map[string]string{"lock_timeout": "1"}},
		{`-c search_path=a\ b`, map[string]string{"search_path": "a b"}},
		{`-c search_path=a\\b`, map[string]string{"search_path": `a\b`}},
		{`-c\ search_path=a`, nil}, // one argument: "-c search_path=a", whose name begins with a space
		{"-c search_path=", map[string]string{"search_path": ""}},
		{"-c search_path=a=b", map[string]string{"search_path": "a=b"}},
		{"-c jit=on -c jit=off", map[string]string{"jit": "off"}},
		{"-c=", nil},
		{"-c", nil},
		{"--", nil},
		{"-", nil},
		{"-c jit", nil},
		{"jit=on", nil},
		{"-W 5", nil},
		{"-c post_auth_delay=5", nil},
		{"-c jit=on --post-auth-delay=5", nil},
		{"-c POST-AUTH-DELAY=5", nil},
		{"-c role=postgres", nil},
		{"-c session_authorization=postgres", nil},
		{"-c session_preload_libraries=x", nil},
		{"-c made.up=x", nil},
	} {
		s := startup{params: make(map[string]string)}
		err := s.setOptions(rule.options)
		if err != nil {
			checkRefusal(t, err)
		}
		switch {
		case rule.want == nil && err == nil:
			t.Errorf("%q: let %v through", rule.options, s.params)
		case rule.want != nil && err != nil:
			t.Errorf("%q: %v", rule.options, err)
		case rule.want != nil:
			if diff := cmp.Diff(rule.want, s.params); diff != "" {
				t.Errorf("%q (-want +got):\n%s", rule.options, diff)
			}
		}
	}
}

func FuzzOptions(f *testing.F) {
	for _, options := range []string{
		"-c geqo=off --jit=on", `-c search_path=a\ b\\`, "-c=", "-c", "--", "-c post_auth_delay=1", "--a-b=c", "\\", "-\xff=\xfe",
	} {
		f.Add(options)
	}
	f.Fuzz(func(t *testing.T, options string) {
		s := startup{params: make(map[string]string)}
		if strings.Contains(options, "\x00") {
			return // can't be in a parameter
		}
		if err := s.setOptions(options); err != nil {
			checkRefusal(t, err)
			return
		}
		checkParameters(t, s.params)
		// Escaping each character of each argument changes nothing.
		var escaped strings.Builder
		for _, arg := range splitOptions(options) {
			escaped.WriteByte(' ')
			for _, b := range []byte(arg) {
				escaped.Write([]byte{'\\', b})
			}
		}
		if got, want := splitOptions(escaped.String()), splitOptions(options); !slices.Equal(got, want) {
			t.Fatalf("escaped, %q is another list of arguments: got %q, want %q", options, got, want)
		}
	})
}
