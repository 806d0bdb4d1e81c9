package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"
	"unicode/utf8"
)

// entry is a statement on its way into the trail. Its slices belong to somebody else.
type entry struct {
	number   uint64 // of its first slot in the spool; 0 when it was not there
	at       int64  // nanoseconds since 1970
	length   int64
	took     int64 // nanoseconds (result)
	function uint32
	call     uint32
	kind     uint8 // index into statementKinds
	redacted bool
	session  []byte
	user     []byte
	grant    []byte
	name     []byte
	portal   []byte
	text     []byte
}

// batch is lines of statements that are written with one write(2). They are equal to what encoding/json makes of the
// same Record, but cost no allocation.
type batch struct {
	same  string // what all lines of statements have: event, deployment, proxy
	lines []byte

	sameResults string // likewise, of results

	seq  uint64 // of the last line
	prev [2 * sha256.Size]byte

	second int64  // of the statement before, and
	clock  []byte // how it is written
}

// sameInAll is what follows the time in each line of an event.
func sameInAll(event Event, opts Options) string {
	same := `Z","event":"` + string(event) + `"`
	for _, f := range []struct{ key, value string }{{"deployment", opts.Deployment}, {"proxy", opts.Proxy}} {
		if f.value != "" {
			same += `,"` + f.key + `":` + string(appendJSON(nil, []byte(f.value)))
		}
	}
	return same
}

// begin empties the batch. Its first line will follow the one with this number and hash.
func (b *batch) begin(seq uint64, prev string) {
	b.lines, b.seq = b.lines[:0], seq
	if cap(b.lines) > 1<<20 { // after a record of that size
		b.lines = nil
	}
	copy(b.prev[:], prev)
}

// open begins a line.
func (b *batch) open() []byte {
	l := append(b.lines, `{"seq":`...)
	l = strconv.AppendUint(l, b.seq+1, 10)
	l = append(l, `,"prev":"`...)
	l = append(l, b.prev[:]...)
	return append(l, `",`...)
}

// close ends the line that begins at start.
func (b *batch) close(l []byte, start int) {
	l = appendCRC(l, start)
	sum := sha256.Sum256(l[start : len(l)-1])
	hex.Encode(b.prev[:], sum[:])
	b.lines, b.seq = l, b.seq+1
}

// unlinked is how JSON begins for a record that has no link yet.
const unlinked = `{"seq":0,"prev":"",`

// encode makes the body of a record's line: what stands between its link and its CRC.
func (t *Trail) encode(r Record) ([]byte, error) {
	r.Link = Link{}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Time = r.Time.UTC()
	if !r.Until.IsZero() {
		r.Until = r.Until.UTC()
	}
	if !r.Since.IsZero() {
		r.Since = r.Since.UTC()
	}
	if r.Deployment == "" {
		r.Deployment = t.opts.Deployment
	}
	if r.Proxy == "" {
		r.Proxy = t.opts.Proxy
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&r); err != nil {
		return nil, fmt.Errorf("encoding record: %w", err)
	}
	if b.Len() > MaxRecord-200 { // room for the link and the CRC
		return nil, fmt.Errorf("record is longer than %d bytes", MaxRecord-200)
	}
	body, ok := bytes.CutPrefix(bytes.TrimSuffix(b.Bytes(), []byte("}\n")), []byte(unlinked))
	if !ok {
		return nil, errors.New("encoding record: it does not begin with its link")
	}
	return body, nil
}

// addRecord adds the line of a record whose body encode has made.
func (b *batch) addRecord(body []byte) {
	start := len(b.lines)
	b.close(append(b.open(), body...), start)
}

// add adds the line of what was in the spool.
func (b *batch) add(e *entry) {
	switch e.kind {
	case kindResult:
		b.addResult(e)
		return
	case kindRecord:
		start := len(b.lines)
		b.close(appendNumber(append(b.open(), e.text...), "statement_number", e.number), start)
		return
	}
	start := len(b.lines)
	l := append(b.open(), `"time":"`...)
	l = b.appendTime(l, e.at)
	l = append(l, b.same...)
	l = appendName(l, `,"session":`, e.session)
	l = appendName(l, `,"user":`, e.user)
	l = appendName(l, `,"grant":`, e.grant)
	l = append(l, `,"kind":"`...)
	l = append(l, statementKinds[e.kind]...)
	l = append(l, '"')
	hasValues := statementKinds[e.kind].hasValues()
	if !hasValues {
		l = appendBytes(l, "statement", uncut(e))
	}
	l = appendBytes(l, "prepared", e.name)
	l = appendBytes(l, "portal", e.portal)
	l = appendNumber(l, "function_oid", uint64(e.function))
	if hasValues {
		l = appendParameters(l, e.text)
	}
	l = appendNumber(l, "statement_bytes", uint64(e.length)) //nolint:gosec // G115: never negative, see check and readEntry
	l = appendNumber(l, "call", uint64(e.call))
	if e.redacted {
		l = append(l, `,"redacted":true`...)
	}
	l = appendNumber(l, "statement_number", e.number)
	b.close(l, start)
}

// appendTime adds a time as time.RFC3339Nano has it, without the Z. Most have the second of the one before.
func (b *batch) appendTime(l []byte, at int64) []byte {
	second, fraction := at/1e9, at%1e9
	if fraction < 0 {
		second, fraction = second-1, fraction+1e9
	}
	if second != b.second || b.clock == nil {
		b.second = second
		b.clock = time.Unix(second, 0).UTC().AppendFormat(b.clock[:0], "2006-01-02T15:04:05")
	}
	l = append(l, b.clock...)
	if fraction == 0 {
		return l
	}
	l = append(l, ".000000000"...)
	digits := l[len(l)-9:]
	for i := 8; i >= 0; i-- {
		digits[i] = byte('0' + fraction%10)
		fraction /= 10
	}
	for l[len(l)-1] == '0' {
		l = l[:len(l)-1]
	}
	return l
}

// appendCRC ends the line that begins at start.
func appendCRC(b []byte, start int) []byte {
	sum := crc32.Checksum(b[start:], castagnoli)
	b = append(b, `,"crc":"`...)
	var word [4]byte
	binary.BigEndian.PutUint32(word[:], sum)
	b = hex.AppendEncode(b, word[:])
	return append(b, "\"}\n"...)
}

// uncut is the text without the part of a character that a cut has left at its end, so that the text is still UTF-8.
func uncut(e *entry) []byte {
	if e.length <= int64(len(e.text)) {
		return e.text
	}
	return wholeCharacters(e.text)
}

// wholeCharacters is a text without the part of a UTF-8 character at its end that lacks the rest.
func wholeCharacters(text []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		tail := text[len(text)-n:]
		if utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				break
			}
			return text[:len(text)-n]
		}
	}
	return text
}

// appendBytes adds a field with a client's bytes: as a string when they are UTF-8, else as base64 and under another
// name, so that nothing is lost.
func appendBytes(b []byte, key string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(append(b, `,"`...), key...)
	if utf8.Valid(value) {
		return appendJSON(append(b, `":`...), value)
	}
	b = append(b, `_base64":"`...)
	b = base64.StdEncoding.AppendEncode(b, value)
	return append(b, '"')
}

// appendName adds a field with a name of ours, or nothing when it is empty.
func appendName(b []byte, key string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	return appendJSON(append(b, key...), value)
}

func appendNumber(b []byte, key string, n uint64) []byte {
	if n == 0 {
		return b
	}
	b = append(append(append(b, `,"`...), key...), `":`...)
	return strconv.AppendUint(b, n, 10)
}

// plain says which bytes stand for themselves in a JSON string. Bytes of 0x80 and more begin what must be looked at.
var plain = func() (table [256]bool) {
	for c := range utf8.RuneSelf {
		table[c] = c >= 0x20 && c != '"' && c != '\\'
	}
	return table
}()

// appendJSON adds a string as encoding/json does without SetEscapeHTML: bytes that are not UTF-8 become U+FFFD.
func appendJSON(b, s []byte) []byte {
	b = append(b, '"')
	for len(s) > 0 {
		n := 0
		for n < len(s) && plain[s[n]] {
			n++
		}
		b = append(b, s[:n]...)
		if s = s[n:]; len(s) > 0 {
			b, s = appendEscaped(b, s)
		}
	}
	return append(b, '"')
}

// appendEscaped adds the first character of s, which is not plain, and returns what follows it.
func appendEscaped(b, s []byte) (line, rest []byte) {
	const digits = "0123456789abcdef"
	c := s[0]
	if c < utf8.RuneSelf {
		switch c {
		case '"', '\\':
			return append(b, '\\', c), s[1:]
		case '\b':
			return append(b, `\b`...), s[1:]
		case '\f':
			return append(b, `\f`...), s[1:]
		case '\n':
			return append(b, `\n`...), s[1:]
		case '\r':
			return append(b, `\r`...), s[1:]
		case '\t':
			return append(b, `\t`...), s[1:]
		}
		return append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15]), s[1:]
	}
	r, size := utf8.DecodeRune(s)
	switch {
	case r == utf8.RuneError && size == 1:
		return append(b, `\ufffd`...), s[1:]
	case r == '\u2028' || r == '\u2029': // JavaScript takes them for line ends
		return append(b, '\\', 'u', '2', '0', '2', digits[r&15]), s[size:]
	}
	return append(b, s[:size]...), s[size:]
}
