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
func TestRule04NothingIsAllocatedForALength(t *testing.T) {
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
	f.Add(startupPacket(protocol30, "user", "a", "timezone", "UTC", "TimeZone", "UTC"))
	f.Add(startupPacket(protocol30, "user", "a", "USER", "b"))
	f.Add(append(startupPacket(protocol30, "user", "a"), 0))
	f.Add(startupPacket(protocol30, "user", "a", "__qp.test", "", "options", "-c my.name=1 -c my.name=2 -c role=b -c track_activities=off"))
	f.Add([]byte{0, 0, 0, 8, 4, 210, 22, 47})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) > maxFuzzed {
			return
		}
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
		want, end := wantedStartup(string(packet))
		s, err := parseStartupMessage(packet)
		if err != nil {
			if got := endOf(t, err); got != end {
				t.Fatalf("%q: got %s (%v), want %s", packet, got, err, end)
			}
			return
		}
		if end != accepted || !sameStartup(s, want) || s.cancel != nil {
			t.Fatalf("%q was accepted as %+v, want %s %+v", packet, s, end, want)
		}
		checkParameters(t, s.params)
		checkOverridden(t, s)
		// Nothing that the server gets comes from anywhere but one parameter of the client's.
		if count := bytes.Count(packet, []byte{0}); len(s.params) > count {
			t.Fatalf("%d parameters out of %d strings", len(s.params), count)
		}
	})
}

// checkParameters: only what a session may set goes upstream, under the lists' own spelling.
func checkParameters(t testing.TB, params map[string]string) {
	t.Helper()
	for name, value := range params {
		if !maySet(name) {
			t.Fatalf("parameter %q is let through", name)
		}
		if strings.Contains(value, "\x00") {
			t.Fatalf("NUL in the value %q of %q", value, name)
		}
	}
}

// maySet reports that a client may name the setting at startup: one of the lists, role, or one of the user's own, which
// PostgreSQL knows by the dots in its name.
func maySet(name string) bool {
	own := strings.Contains(name, ".") && !slices.ContainsFunc(strings.Split(name, "."), func(part string) bool { return !identifier(part) })
	return allowedParameters[name] || grantableParameters[name] || name == roleParameter || own
}

// checkOverridden: what goes upstream as "options" is read as the allowed settings that the client sent, and as nothing
// else.
func checkOverridden(t *testing.T, s startup) {
	t.Helper()
	args := splitOptions(strings.Join(s.overridden, " "))
	if len(args) != 2*len(s.overridden) {
		t.Fatalf("%q is read as %q", s.overridden, args)
	}
	for i := 0; i < len(args); i += 2 {
		name, _, ok := strings.Cut(args[i+1], "=")
		if _, last := s.params[name]; args[i] != "-c" || !ok || !maySet(name) || !last {
			t.Fatalf("%q is read as %q, of %v", s.overridden, args, s.params)
		}
	}
}

// checkRefusal: a client is told something that is printable, or nothing.
func checkRefusal(t testing.TB, err error) {
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
		{`-c search_path=a\`, map[string]string{"search_path": "a"}},
		{`\`, nil},                 // one argument, which is empty
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
		{"-c role=postgres", map[string]string{"role": "postgres"}}, // if the grant names it: see session.authorize
		{"-c session_authorization=postgres", nil},
		{"-c session_preload_libraries=x", nil},
		{"-c made.up=x", map[string]string{"made.up": "x"}},
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

// Two names that are not UTF-8 are two names.
func TestNamesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	pairs, err := splitParameters([]byte("\xff\x00a\x00\xfe\x00b\x00\x00"))
	if err != nil || len(pairs) != 2 {
		t.Errorf("got %q and %v, want both", pairs, err)
	}
	if got := lowerASCII("\xffK\u212a\xc4"); got != "\xffk\u212a\xc4" {
		t.Errorf("got %q, want ASCII letters folded and nothing else changed", got)
	}
}

func FuzzOptions(f *testing.F) {
	for _, options := range []string{
		"-c geqo=off --jit=on", `-c search_path=a\ b\\`, "-c=", "-c", "--", "-c post_auth_delay=1", "--a-b=c", "--default-transaction-read-only=on", "\\", "-\xff=\xfe",
	} {
		f.Add(options)
	}
	f.Fuzz(func(t *testing.T, options string) {
		if strings.Contains(options, "\x00") || len(options) > maxStartupPacket {
			return // can't be in a parameter
		}
		args := splitOptions(options)
		if want := postgresSplit(options); !slices.Equal(args, want) {
			t.Fatalf("%q: got arguments %q, want %q", options, args, want)
		}
		got, want := startup{params: make(map[string]string)}, startup{params: make(map[string]string)}
		end := wantedOptions(&want, options)
		err := got.setOptions(options)
		if (err == nil) != (end == accepted) || err == nil && !sameStartup(got, want) || err != nil && endOf(t, err) != end {
			t.Fatalf("%q: got %+v and %v, want %s %+v", options, got, err, end, want)
		}
		checkParameters(t, got.params)
		if err == nil {
			checkOverridden(t, got)
		}

		// Written again with a backslash before each byte, the arguments are the same.
		var escaped strings.Builder
		for _, arg := range args {
			if arg == "" {
				return // a backslash at the end can't be written again
			}
			escaped.WriteByte(' ')
			for _, b := range []byte(arg) {
				escaped.Write([]byte{'\\', b})
			}
		}
		if again := splitOptions(escaped.String()); !slices.Equal(again, args) {
			t.Fatalf("escaped, %q is another list of arguments: got %q, want %q", options, again, args)
		}
	})
}
