package statements

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
)

// listTrail keeps statements as text, with parts of one put together.
type listTrail struct {
	Trail
	list []string
	err  error
}

func (l *listTrail) Statement(_ context.Context, s *audit.Statement) error {
	if l.err != nil {
		return l.err
	}
	if s.At.IsZero() || len(s.Text) > audit.MaxStatementText {
		return fmt.Errorf("at %v, %d bytes", s.At, len(s.Text))
	}
	if !utf8.Valid(s.Text) {
		return fmt.Errorf("a character is cut at the end of %q", s.Text[max(0, len(s.Text)-10):])
	}
	if s.Kind == audit.StatementMoreValues {
		l.list[len(l.list)-1] += " and" + shown(s.Parameters)
		return nil
	}
	if s.Kind == audit.StatementMore {
		l.list[len(l.list)-1] += string(s.Text)
		return nil
	}
	l.list = append(l.list, fmt.Sprintf("%s portal=%q name=%q function=%d length=%d: %s%s", s.Kind, s.Portal, s.Name, s.Function, s.Length, s.Text, shown(s.Parameters)))
	return nil
}

// shown is the values as they stand in the trail, or the hash of long ones.
func shown(p *audit.Parameters) string {
	if p == nil || p.Empty() {
		return ""
	}
	b, err := json.Marshal(p.List())
	if err != nil {
		return err.Error()
	}
	if len(b) > 200 {
		sum := sha256.Sum256(b)
		return fmt.Sprintf("%d bytes %x", len(b), sum[:4])
	}
	return string(b)
}

// vals is the rest of a Bind or a FunctionCall: formats, values ("NULL" is NULL), and what follows.
func vals(formats []uint16, values ...string) string {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(formats)))
	for _, f := range formats {
		b = binary.BigEndian.AppendUint16(b, f)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		if v == "NULL" {
			b = binary.BigEndian.AppendUint32(b, 1<<32-1)
			continue
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
	}
	return string(binary.BigEndian.AppendUint16(b, 0))
}

// watched is a watcher with the stream that it watches.
type watched struct {
	*Watcher
	stream *relay.Frames
}

func watch(trail Trail) watched {
	w := watched{Watcher: &Watcher{trail: trail, ctx: context.Background(), who: audit.Statement{Session: "s"}}}
	requests, _ := w.Kinds()
	w.stream = relay.NewFrames(requests, w.Request)
	return w
}

func (w watched) scan(b []byte) error {
	_, err := w.stream.Scan(b, time.Now())
	return err
}

func raw(kind byte, length uint32, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, length), body...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func request(kind byte, body string) []byte { return raw(kind, uint32(4+len(body)), []byte(body)...) }

var requestRules = []struct {
	name     string
	messages []byte
	want     []string
}{
	{"Query", request('Q', "SELECT 1\x00"), []string{`query portal="" name="" function=0 length=0: SELECT 1`}},
	{"an empty Query", request('Q', "\x00"), []string{`query portal="" name="" function=0 length=0: `}},
	{"a Query without its NUL, which PostgreSQL refuses", request('Q', "x"), []string{`query portal="" name="" function=0 length=0: x`}},
	{"a Query without anything", request('Q', ""), []string{`query portal="" name="" function=0 length=0: `}},
	{"Parse", request('P', "n\x00SELECT $1\x00\x00\x01\x00\x00\x00\x17"), []string{`parse portal="" name="n" function=0 length=0: SELECT $1`}},
	{"Bind", request('B', "p\x00n\x00\x00\x00\x00\x01\x00\x00\x00\x06secret\x00\x00"), []string{`bind portal="p" name="n" function=0 length=0: ["secret"]`}},
	{"Bind without values", request('B', "p\x00n\x00"+vals(nil)), []string{`bind portal="p" name="n" function=0 length=0: `}},
	{
		"Bind of texts", request('B', "\x00\x00"+vals([]uint16{0}, "", "NULL", "a\x00\xff", `{"hex":"00"}`)),
		[]string{`bind portal="" name="" function=0 length=0: ["",null,{"base64":"YQD/"},"{\"hex\":\"00\"}"]`},
	},
	{
		"Bind of binary values", request('B', "\x00n\x00"+vals([]uint16{1}, "\x01\x02", "", "NULL")),
		[]string{`bind portal="" name="n" function=0 length=0: [{"hex":"0102"},{"hex":""},null]`},
	},
	{
		"Bind of both, with types", join(request('P', "n\x00SELECT\x00\x00\x02\x00\x00\x00\x17\x00\x00\x00\x19"), request('B', "\x00n\x00"+vals([]uint16{1, 0}, "\x00\x00\x00\x2a", "x"))),
		[]string{`parse portal="" name="n" function=0 length=0: SELECT`, `bind portal="" name="n" function=0 length=0: [{"hex":"0000002a","type":23},"x"]`},
	},
	{
		"types of the unnamed statement, and none of another", join(request('P', "\x00A\x00\x00\x01\x00\x00\x00\x17"), request('P', "\x00B\x00\x00\x00"), request('B', "\x00\x00"+vals([]uint16{1}, "\x01"))),
		[]string{`parse portal="" name="" function=0 length=0: A`, `parse portal="" name="" function=0 length=0: B`, `bind portal="" name="" function=0 length=0: [{"hex":"01"}]`},
	},
	{
		"a statement that is closed has no types", join(request('P', "n\x00A\x00\x00\x01\x00\x00\x00\x17"), request('C', "Sn\x00"), request('B', "\x00n\x00"+vals([]uint16{1}, "\x01"))),
		[]string{`parse portal="" name="n" function=0 length=0: A`, `bind portal="" name="n" function=0 length=0: [{"hex":"01"}]`},
	},
	{
		"as many values as there can be", request('B', "\x00\x00"+vals(nil, slices.Repeat([]string{"NULL"}, 65535)...)),
		[]string{`bind portal="" name="" function=0 length=0: 36406 bytes ` + nulls(7281) + strings.Repeat(" and36406 bytes "+nulls(7281), 8) + ` and[null,null,null,null,null,null]`},
	},
	{
		"a value as long as a record, and one longer", request('B', "p\x00\x00"+vals(nil, xs[:audit.MaxParameter], xs, "x")),
		[]string{`bind portal="p" name="" function=0 length=0: 65531 bytes ` + hashed(`["`+xs[:audit.MaxParameter]+`"]`) +
			` and65554 bytes ` + hashed(`[{"text":"`+xs[:audit.MaxParameter]+`","bytes":65536}]`) + ` and["x"]`},
	},
	{"a Bind whose value is cut short, which PostgreSQL refuses", request('B', "p\x00n\x00\x00\x00\x00\x01\x00\x00\x00\x06sec"), []string{`bind portal="p" name="n" function=0 length=0: [{"text":"sec","bytes":6}]`}},
	{"a COPY that the server ends", join(request('d', "1\n"), request('Q', "A\x00")), []string{`copy_data portal="" name="" function=0 length=2: `, `query portal="" name="" function=0 length=0: A`}},
	{"Describe, Execute, Close, Flush, Sync", join(request('D', "Sn\x00"), request('E', "p\x00\x00\x00\x00\x00"), request('C', "Sn\x00"), request('H', ""), request('S', "")), nil},
	{"FunctionCall", request('F', "\x00\x00\x03\xb8"+vals([]uint16{0, 1}, "text", "\x01")), []string{`function_call portal="" name="" function=952 length=0: ["text",{"hex":"01"}]`}},
	{"COPY", join(request('d', "1\n"), request('d', ""), request('d', "22\n"), request('c', "")), []string{`copy_data portal="" name="" function=0 length=5: `}},
	{
		"COPY twice, and given up", join(request('d', "1\n"), request('f', "no\x00"), request('d', "1"), request('c', "")),
		[]string{`copy_data portal="" name="" function=0 length=2: `, `copy_data portal="" name="" function=0 length=1: `},
	},
	{
		"two behind one another", join(request('Q', "SELECT 1\x00"), request('Q', "SELECT 2\x00")),
		[]string{`query portal="" name="" function=0 length=0: SELECT 1`, `query portal="" name="" function=0 length=0: SELECT 2`},
	},
	{"a long Query", request('Q', longText+"\x00"), []string{`query portal="" name="" function=0 length=0: ` + longText}},
	{"a Query as long as a record", request('Q', xs[:audit.MaxStatementText-1]+"\x00"), []string{`query portal="" name="" function=0 length=0: ` + xs[:audit.MaxStatementText-1]}},
	{"a Query one longer", request('Q', xs+"\x00"), []string{`query portal="" name="" function=0 length=0: ` + xs}},
	{"a long Parse", request('P', "n\x00"+longText+"\x00\x00\x00"), []string{`parse portal="" name="n" function=0 length=0: ` + longText}},
	{"text behind the NUL, which PostgreSQL refuses", request('Q', "SELECT 1\x00"+longText), []string{`query portal="" name="" function=0 length=0: SELECT 1`}},
}

func nulls(n int) string { return hashed("[null" + strings.Repeat(",null", n-1) + "]") }

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%x", sum[:4])
}

var (
	longText = strings.Repeat("SELECT 'läng € 😀'; ", 12_000)
	xs       = strings.Repeat("x", audit.MaxStatementText)
)

// The trail is told the same however the messages are cut.
func TestStatements(t *testing.T) {
	t.Parallel()
	for _, rule := range requestRules {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, 2))
			for _, most := range []int{1 << 30, 70_000, 5000, 3, 1} {
				if most < 100 && len(rule.messages) > 500_000 {
					continue
				}
				trail := &listTrail{}
				w := watch(trail)
				for rest := rule.messages; len(rest) > 0; {
					n := min(len(rest), 1+random.IntN(most))
					if most == 1<<30 {
						n = len(rest)
					}
					if err := w.scan(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if diff := cmp.Diff(rule.want, trail.list); diff != "" {
					t.Fatalf("in pieces of up to %d bytes (-want +got):\n%s", most, diff)
				}
				if w.held != nil {
					t.Errorf("%d bytes are held after the end of the message", len(w.held))
				}
			}
		})
	}
}

// Not a byte of a request goes upstream before the trail has it.
func TestStatementIsRecordedFirst(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	client, nearClient := net.Pipe()
	server, nearServer := net.Pipe()
	r := relay.New(nearClient, nearServer, &Watcher{trail: slowTrail{asked: asked, answer: answer}, who: audit.Statement{Session: "s"}})
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(context.Background()); _ = nearServer.Close(); r.Wait() }()
	go func() { _, _ = client.Write(request('Q', "SELECT 1\x00")) }()
	<-asked
	_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _ := server.Read(make([]byte, 1)); n > 0 {
		t.Error("a byte went upstream while the trail was still being asked")
	}
	close(answer)
	_ = server.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(server, make([]byte, 14)); err != nil {
		t.Error(err)
	}
	_ = server.Close()
	_ = client.Close()
	<-ended
}

// slowTrail takes a statement when it is told to.
type slowTrail struct {
	Trail
	asked, answer chan struct{}
}

func (s slowTrail) Statement(context.Context, *audit.Statement) error {
	close(s.asked)
	<-s.answer
	return nil
}

// Once the trail fails, it is not asked again: what comes behind must not go upstream either.
func TestStatementsAfterAnError(t *testing.T) {
	t.Parallel()
	trail := &listTrail{}
	w := watch(trail)
	trail.err = errors.New("no space left on device")
	if err := w.scan(join(request('Q', "SELECT 1\x00"), request('Q', "SELECT 2\x00"))); !errors.Is(err, ErrTrail) {
		t.Errorf("got %v", err)
	}
	trail.err = nil
	if err := w.scan(request('Q', "SELECT 3\x00")); !errors.Is(err, ErrTrail) {
		t.Errorf("got %v", err)
	}
	if trail.list != nil {
		t.Errorf("recorded %q after an error", trail.list)
	}
}

// Recording allocates nothing but for messages that come in pieces.
func TestStatementsDoNotAllocate(t *testing.T) {
	w := watch(nowhere{})
	burst := join(request('P', "n\x00SELECT $1\x00\x00\x00"), request('B', "p\x00n\x00\x00\x00\x00\x00"), request('E', "p\x00\x00\x00\x00\x00"),
		request('S', ""), request('Q', "SELECT 1\x00"))
	if n := testing.AllocsPerRun(100, func() {
		_ = w.scan(burst)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// nowhere is a trail that takes everything.
type nowhere struct{ Trail }

func (nowhere) Result(*audit.Result) bool { return true }

func (nowhere) Statement(context.Context, *audit.Statement) error { return nil }

// FuzzStatements: whatever a client sends, the trail is told the same however it is cut, and nothing panics.
func FuzzStatements(f *testing.F) {
	f.Add(join(request('P', "n\x00SELECT $1\x00\x00\x01\x00\x00\x00\x17"), request('B', "p\x00n\x00"+vals([]uint16{1, 0}, "\x01", "x"))), uint64(1))
	f.Add(join(request('F', "\x00\x00\x03\xb8"+vals([]uint16{0}, "a", "NULL")), request('d', "1"), request('Q', "SELECT 1\x00")), uint64(2))
	f.Add(request('B', "p\x00n\x00\x00\x00\x00\x01\x80\x00\x00\x00"), uint64(3))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		stream = append(stream[:len(stream):len(stream)], request('S', "")...)
		if whole, _ := relay.NewFrames("", nil).Scan(stream, time.Now()); whole != len(stream) {
			return // the last message is not whole
		}
		var lists [2][]string
		for i := range lists {
			trail := &listTrail{}
			w := watch(trail)
			for rest := stream; len(rest) > 0; {
				n := len(rest)
				if i == 1 {
					n = min(n, 1+random.IntN(8))
				}
				if err := w.scan(rest[:n]); err != nil {
					return // a name that is too long, or text that is not UTF-8, which listTrail refuses
				}
				rest = rest[n:]
			}
			lists[i] = trail.list
		}
		if diff := cmp.Diff(lists[0], lists[1]); diff != "" {
			t.Fatalf("whole and in pieces (-whole +pieces):\n%s", diff)
		}
	})
}
