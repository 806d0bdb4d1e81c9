package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// wantLine is what encoding/json makes of a statement's record.
func wantLine(t testing.TB, e *entry, opts Options, seq uint64, prev string) string {
	t.Helper()
	r := Record{
		Link: Link{Seq: seq, Prev: prev}, Time: time.Unix(0, e.at).UTC(), Event: SessionStatement,
		Gate: Gate{Deployment: opts.Deployment, Proxy: opts.Proxy}, Subject: Subject{Session: string(e.session), User: string(e.user)},
		Right: Right{Grant: string(e.grant)},
		Asked: Asked{
			Kind: statementKinds[e.kind], FunctionOID: e.function, StatementBytes: e.length, Redacted: e.redacted, StatementNumber: e.number, Call: e.call,
		},
	}
	if e.kind == kindResult {
		r.Event, r.Right, r.User, r.Asked = StatementResult, Right{}, "", Asked{Call: e.call, StatementNumber: e.number}
		r.Code, r.Duration = string(e.name), float64((e.took+500)/1000)/1e6
		r.Answered = Answered{Command: string(e.text), Rows: e.length, ResultsLost: e.function}
		return encoded(t, r)
	}
	text := e.text
	if statementKinds[e.kind].hasValues() {
		r.Parameters, text = (&Parameters{b: e.text}).List(), nil
	}
	for _, f := range []struct {
		value  []byte
		text   *string
		base64 *[]byte
	}{
		{text, &r.Statement, &r.StatementBase64}, {e.name, &r.Prepared, &r.PreparedBase64}, {e.portal, &r.Portal, &r.PortalBase64},
	} {
		if utf8.Valid(f.value) {
			*f.text = string(f.value)
		} else {
			*f.base64 = f.value
		}
	}
	return encoded(t, r)
}

func encoded(t testing.TB, r Record) string {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "}\n")
}

func TestLinesAreWhatEncodingJSONMakes(t *testing.T) {
	t.Parallel()
	var all []byte
	for c := range 256 {
		all = append(all, byte(c))
	}
	texts := [][]byte{
		nil, []byte("SELECT 1"), all[:0x80], all, []byte("\u2028\u2029\ufffd\U0010ffff é <a&b>"), []byte("a\x00b\r\n\t\b\f\v\x7f\"\\"),
		[]byte("caf\xe9"), []byte("\xed\xa0\x80"), []byte("\xf4\x90\x80\x80"), bytes.Repeat([]byte(`"`), MaxStatementText),
	}
	var entries []entry
	for i, text := range texts {
		entries = append(
			entries,
			entry{kind: 1, session: []byte("00c0ffee00c0ffee"), user: []byte("alice"), grant: []byte("inc\n1"), text: text},
			entry{kind: 2, name: text, text: text, number: math.MaxUint64, at: noonNano + int64(i)},
			entry{kind: 3, name: text, portal: text, session: text, at: noonNano - noonNano%1e9},
			entry{kind: 4, function: math.MaxUint32, redacted: true, at: -1},
			entry{kind: 6, text: parametersOf(text)},
			entry{kind: 5, length: math.MaxInt64, at: math.MaxInt64},
			entry{kind: 5, at: math.MinInt64},
			entry{kind: 1, call: uint32(i), text: text, redacted: true},
			entry{kind: kindResult, session: text[:min(len(text), 200)], name: text, text: text, call: math.MaxUint32, took: int64(i) * 123_456_789, length: int64(i), function: uint32(i), number: uint64(i)},
			entry{kind: kindResult, took: 2e9 - 1, at: noonNano},
			entry{kind: kindResult, took: 499},
		)
	}
	for _, opts := range []Options{{}, {Deployment: "prod\n", Proxy: "p\xff"}} {
		b := batch{same: sameInAll(SessionStatement, opts), sameResults: sameInAll(StatementResult, opts)}
		for i, e := range entries {
			prev := strings.Repeat("ab", 32)
			b.begin(uint64(i)+1, prev)
			b.add(&e)
			want := wantLine(t, &e, opts, uint64(i)+2, prev)
			if got := string(b.lines[:len(want)]); got != want {
				t.Fatalf("got  %.400q\nwant %.400q", got, want)
			}
			line := b.lines[:len(b.lines)-1]
			if _, err := parseLine(line); err != nil {
				t.Fatalf("%.400q: %v", line, err)
			}
			if got, want := string(b.prev[:]), hashLine(line); got != want || b.seq != uint64(i)+2 {
				t.Fatalf("got hash %s and number %d, want %s and %d", got, b.seq, want, i+2)
			}
		}
	}
}

// parametersOf is a text as values of each form.
func parametersOf(text []byte) []byte {
	var p Parameters
	p.Null()
	for i, length := range []int{len(text), len(text) + 7} {
		for _, isBinary := range []bool{false, true} {
			if p.Holds(int64(length)) {
				p.Begin(int64(length), isBinary, uint32(i))
				p.Add(text, 0)
			}
		}
		if length > len(text) {
			break
		}
	}
	return p.b
}

// FuzzParameters: whatever the values, they are read back as they were; whatever the bytes, reading them ends.
func FuzzParameters(f *testing.F) {
	f.Add([]byte("a"), []byte("\xff"), uint32(17))
	f.Add([]byte{formText, 0, 0, 0, 0, 255, 255, 255, 255, 'x'}, []byte(nil), uint32(0))
	f.Fuzz(func(t *testing.T, text, data []byte, oid uint32) {
		if len(text) > MaxParameter || len(data) > MaxParameter || len(text)+len(data) > MaxStatementText-100 {
			return
		}
		var p Parameters
		p.Begin(int64(len(text)), false, 0)
		p.Add(text, 0)
		p.Null()
		p.Begin(int64(len(data)), true, oid)
		p.Add(data, 0)
		list := p.List()
		if len(list) != 3 || list[0].Text+string(list[0].Base64) != string(text) || !list[1].Null ||
			list[2].Hex != hex.EncodeToString(data) || list[2].Type != oid || !list[2].Binary {
			t.Fatalf("%q and %x became %+v", text, data, list)
		}
		line := appendParameters([]byte("{\"x\":0"), p.b)
		var r Record
		if err := json.Unmarshal(append(line, '}'), &r); err != nil || !slices.EqualFunc(r.Parameters, list, func(a, b Parameter) bool {
			return a.Text == b.Text && bytes.Equal(a.Base64, b.Base64) && a.Hex == b.Hex && a.Null == b.Null && a.Type == b.Type
		}) {
			t.Fatalf("%v: %s became %+v", err, line, r.Parameters)
		}
		_ = (&Parameters{b: text}).List()
	})
}

var noonNano = time.Date(2026, 11, 22, 12, 0, 0, 123456780, time.UTC).UnixNano()

// A text that was cut in the middle of a character is still UTF-8 without that character.
func TestCutTexts(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"caf\xc3", "caf"},
		{"x\xf0\x9f\x98", "x"},
		{"x\xf0", "x"},
		{"café", "café"},
		{"x\xff", "x\xff"},
		{"\xe2\x82", ""},
		{"x\x80\x80\x80\x80", "x\x80\x80\x80\x80"},
		{"x", "x"},
		{"", ""},
	} {
		if got := string(uncut(&entry{text: []byte(tt.text), length: 1 << 20})); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
		if got := string(uncut(&entry{text: []byte(tt.text)})); got != tt.text {
			t.Errorf("%q, not cut: got %q", tt.text, got)
		}
	}
}

// Whatever a client sends comes back as it was.
func FuzzLine(f *testing.F) {
	f.Add("SELECT 'a\n\u2028'", "s1", "p1", int64(1), uint32(0))
	f.Add("caf\xe9", "\xff", "\x00", int64(0), uint32(7))
	f.Fuzz(func(t *testing.T, text, name, portal string, at int64, function uint32) {
		e := entry{kind: 1, text: []byte(text), name: []byte(name), portal: []byte(portal), at: at, function: function}
		b := batch{same: sameInAll(SessionStatement, Options{})}
		b.begin(6, strings.Repeat("a", 64))
		b.add(&e)
		if bytes.IndexByte(b.lines, '\n') != len(b.lines)-1 {
			t.Fatalf("%q is not one line", b.lines)
		}
		want := wantLine(t, &e, Options{}, 7, strings.Repeat("a", 64))
		if got := string(b.lines[:min(len(want), len(b.lines))]); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		r, err := parseLine(b.lines[:len(b.lines)-1])
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []struct{ sent, plain, base64 string }{
			{text, r.Statement, string(r.StatementBase64)},
			{name, r.Prepared, string(r.PreparedBase64)},
			{portal, r.Portal, string(r.PortalBase64)},
		} {
			if got := f.plain + f.base64; got != f.sent {
				t.Errorf("sent %q, got %q", f.sent, got)
			}
		}
	})
}
