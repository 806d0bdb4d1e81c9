package audit

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// MaxParameter is the number of bytes of one value that a record holds. A record says of a longer one how long it was.
const MaxParameter = MaxStatementText - parameterHead

// Parameters collects the values of a Bind or a FunctionCall for [Statement], as they come from the client. Its memory is
// used again and again.
type Parameters struct{ b []byte }

// A value is its head (form, OID of its type, length) and at most MaxParameter bytes of it.
const parameterHead = 1 + 4 + 4

const (
	formText = iota
	formBinary
	formNull
)

// Reset forgets all values. Memory that a long one took is given back.
func (p *Parameters) Reset() {
	if cap(p.b) > 4<<10 {
		p.b = nil
	}
	p.b = p.b[:0]
}

// Empty says that there is no value.
func (p *Parameters) Empty() bool { return len(p.b) == 0 }

// Holds says that the record has room for another value of a length. One of any length fits into an empty one.
func (p *Parameters) Holds(length int64) bool {
	return int64(len(p.b))+parameterHead+min(length, MaxParameter) <= MaxStatementText
}

// Null adds a NULL.
func (p *Parameters) Null() { p.head(formNull, 0, 0) }

// Begin adds a value of a length in bytes, which Add gives afterwards. oid is that of its type, 0 when it is unknown.
func (p *Parameters) Begin(length int64, isBinary bool, oid uint32) {
	form := byte(formText)
	if isBinary {
		form = formBinary
	}
	p.head(form, oid, length)
}

func (p *Parameters) head(form byte, oid uint32, length int64) {
	p.b = append(p.b, form)
	p.b = binary.LittleEndian.AppendUint32(p.b, oid)
	p.b = binary.LittleEndian.AppendUint32(p.b, uint32(length)) //nolint:gosec // G115: a message has at most 2³⁰ bytes
}

// Add adds bytes of the value that was begun last, of which before bytes were added already.
func (p *Parameters) Add(part []byte, before int64) {
	if room := MaxParameter - before; room > 0 {
		p.b = append(p.b, part[:min(int64(len(part)), room)]...)
	}
}

// value is one of the values that Parameters holds.
type value struct {
	form   byte
	oid    uint32
	length int64
	bytes  []byte // fewer than length when it was cut, or the message was
}

// nextValue takes the first value off b. It trusts nothing.
func nextValue(b []byte) (v value, rest []byte, ok bool) {
	if len(b) < parameterHead || b[0] > formNull {
		return value{}, nil, false
	}
	v = value{form: b[0], oid: binary.LittleEndian.Uint32(b[1:]), length: int64(binary.LittleEndian.Uint32(b[5:]))}
	b = b[parameterHead:]
	n := min(v.length, MaxParameter, int64(len(b)))
	v.bytes = b[:n]
	return v, b[n:], true
}

// appendParameters adds the field with the values in b. Text is a string, NULL is null, and everything else is an
// object, so that no text can look like something else.
func appendParameters(l, b []byte) []byte {
	if len(b) == 0 {
		return l
	}
	l = append(l, `,"parameters":[`...)
	for first := true; ; first = false {
		v, rest, ok := nextValue(b)
		if !ok {
			return append(l, ']')
		}
		if !first {
			l = append(l, ',')
		}
		l, b = v.appendTo(l), rest
	}
}

func (v *value) appendTo(l []byte) []byte {
	cut := int64(len(v.bytes)) < v.length
	text := v.bytes
	if cut {
		text = wholeCharacters(text)
	}
	switch {
	case v.form == formNull:
		return append(l, "null"...)
	case v.form == formBinary:
		l = append(l, `{"hex":"`...)
		l = append(hex.AppendEncode(l, v.bytes), '"')
	case !utf8.Valid(text):
		l = append(l, `{"base64":"`...)
		l = append(base64.StdEncoding.AppendEncode(l, v.bytes), '"')
	case cut:
		l = appendJSON(append(l, `{"text":`...), text)
	default:
		return appendJSON(l, text)
	}
	l = appendNumber(l, "type", uint64(v.oid))
	if cut {
		l = append(l, `,"bytes":`...)
		l = strconv.AppendInt(l, v.length, 10)
	}
	return append(l, '}')
}

// Parameter is a value that came with a Bind or a FunctionCall. In JSON it is a string when it is text, null when it is
// NULL, and otherwise an object with the fields below.
type Parameter struct {
	Null   bool
	Text   string
	Base64 []byte // text that is not UTF-8
	Hex    string // in binary format
	Binary bool   // Hex counts, even if it is empty
	Type   uint32 // OID of the type that the statement's Parse has declared; 0 when it has not
	Bytes  int64  // the value's length when it was cut; 0 when it is whole
}

type parameterJSON struct {
	Text   *string `json:"text,omitempty"`
	Base64 []byte  `json:"base64,omitempty"`
	Hex    *string `json:"hex,omitempty"`
	Type   uint32  `json:"type,omitempty"`
	Bytes  int64   `json:"bytes,omitempty"`
}

// MarshalJSON writes a value as it stands in the trail.
func (p Parameter) MarshalJSON() ([]byte, error) {
	switch {
	case p.Null:
		return []byte("null"), nil
	case !p.Binary && len(p.Base64) == 0 && p.Bytes == 0:
		return appendJSON(nil, []byte(p.Text)), nil
	}
	j := parameterJSON{Base64: p.Base64, Type: p.Type, Bytes: p.Bytes}
	switch {
	case p.Binary:
		j.Hex = &p.Hex
	case len(p.Base64) == 0:
		j.Text = &p.Text
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON has written.
func (p *Parameter) UnmarshalJSON(b []byte) error {
	*p = Parameter{}
	switch {
	case string(b) == "null":
		p.Null = true
		return nil
	case len(b) > 0 && b[0] == '"':
		return json.Unmarshal(b, &p.Text)
	}
	var j parameterJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if j.Text == nil && j.Base64 == nil && j.Hex == nil {
		return errors.New("a parameter without a value")
	}
	*p = Parameter{Base64: j.Base64, Binary: j.Hex != nil, Type: j.Type, Bytes: j.Bytes}
	if j.Text != nil {
		p.Text = *j.Text
	}
	if j.Hex != nil {
		p.Hex = *j.Hex
	}
	return nil
}

// List returns the values as they will stand in the trail.
func (p *Parameters) List() (list []Parameter) {
	for b := p.b; ; {
		v, rest, ok := nextValue(b)
		if !ok {
			return list
		}
		var one Parameter
		if err := one.UnmarshalJSON(v.appendTo(nil)); err == nil { // it is our own JSON
			list = append(list, one)
		}
		b = rest
	}
}
