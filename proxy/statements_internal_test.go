package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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
	if s.Kind == audit.StatementMore {
		l.list[len(l.list)-1] += string(s.Text)
		return nil
	}
	l.list = append(l.list, fmt.Sprintf("%s portal=%q name=%q function=%d length=%d: %s", s.Kind, s.Portal, s.Name, s.Function, s.Length, s.Text))
	return nil
}

// watched is a watcher with the stream that it watches.
type watched struct {
	*statements
	stream *relay.Frames
}

func watch(trail Trail) watched {
	w := watched{statements: &statements{trail: trail, ctx: context.Background(), who: audit.Statement{Session: "s"}}}
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
	{"Bind", request('B', "p\x00n\x00\x00\x00\x00\x01\x00\x00\x00\x06secret\x00\x00"), []string{`bind portal="p" name="n" function=0 length=0: `}},
	{"Describe, Execute, Close, Flush, Sync", join(request('D', "Sn\x00"), request('E', "p\x00\x00\x00\x00\x00"), request('C', "Sn\x00"), request('H', ""), request('S', "")), nil},
	{"FunctionCall", request('F', "\x00\x00\x03\xb8rest"), []string{`function_call portal="" name="" function=952 length=0: `}},
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
	{"a long Bind", request('B', "p\x00n\x00"+longText), []string{`bind portal="p" name="n" function=0 length=0: `}},
	{"a long FunctionCall", request('F', "\x00\x00\x03\xb8"+longText), []string{`function_call portal="" name="" function=952 length=0: `}},
	{"text behind the NUL, which PostgreSQL refuses", request('Q', "SELECT 1\x00"+longText), []string{`query portal="" name="" function=0 length=0: SELECT 1`}},
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
				if most < 100 && len(rule.messages) > 1000 {
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
	r := relay.New(nearClient, nearServer, &statements{trail: slowTrail{asked: asked, answer: answer}, who: audit.Statement{Session: "s"}})
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
	if err := w.scan(join(request('Q', "SELECT 1\x00"), request('Q', "SELECT 2\x00"))); !errors.Is(err, errTrailStatement) {
		t.Errorf("got %v", err)
	}
	trail.err = nil
	if err := w.scan(request('Q', "SELECT 3\x00")); !errors.Is(err, errTrailStatement) {
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

func (nowhere) Statement(context.Context, *audit.Statement) error { return nil }
