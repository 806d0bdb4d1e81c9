package statements

import (
	"encoding/binary"

	"github.com/hourgate/hourgate/audit"
)

// values reads the values of a Bind or a FunctionCall, in pieces of any size, and hands them to the trail:
//
//	Int16 n, n × Int16 format, Int16 m, m × (Int32 length, bytes), …
//
// What PostgreSQL refuses need not be right here, as long as nothing that it accepts is read in another way than it does.
type values struct {
	list  audit.Parameters
	flush func() error // records the list so far; it is full

	step    valueStep
	number  [4]byte // the number that is being read
	have    int     // bytes of it
	left    int     // formats, or values, still to come
	index   int     // of the next value
	formats []byte  // one for each value, or one for all, or none: 1 is binary
	types   []uint32
	length  int64 // of the value
	missing int64 // bytes of it
}

type valueStep int

const (
	stepFormats valueStep = iota // how many formats
	stepFormat
	stepValues // how many values
	stepLength
	stepValue
	stepRest // nothing that matters
)

// begin begins a message. types are those that the statement was declared with.
func (v *values) begin(types []uint32) {
	v.list.Reset()
	if cap(v.formats) > 1<<10 {
		v.formats = nil
	}
	v.step, v.have, v.left, v.index, v.formats, v.types = stepFormats, 0, 0, 0, v.formats[:0], types
}

// feed takes the next piece.
func (v *values) feed(b []byte) error {
	for len(b) > 0 && v.step != stepRest {
		if v.step == stepValue {
			n := int(min(int64(len(b)), v.missing))
			v.list.Add(b[:n], v.length-v.missing)
			v.missing, b = v.missing-int64(n), b[n:]
			if v.missing == 0 {
				v.next()
			}
			continue
		}
		size := 2
		if v.step == stepLength {
			size = 4
		}
		n := copy(v.number[v.have:size], b)
		v.have, b = v.have+n, b[n:]
		if v.have < size {
			return nil
		}
		v.have = 0
		if err := v.take(); err != nil {
			return err
		}
	}
	return nil
}

// take takes a number.
func (v *values) take() error {
	n := int(binary.BigEndian.Uint16(v.number[:]))
	switch v.step {
	case stepFormats:
		v.left, v.step = n, stepFormat
		if n == 0 {
			v.step = stepValues
		}
	case stepFormat:
		v.formats = append(v.formats, byte(min(n, 2))) //nolint:gosec // G115: 0 to 2
		if v.left--; v.left == 0 {
			v.step = stepValues
		}
	case stepValues:
		v.left, v.step = n, stepLength
		if n == 0 {
			v.step = stepRest
		}
	case stepLength:
		return v.value(int64(int32(binary.BigEndian.Uint32(v.number[:])))) //nolint:gosec // G115: it is signed
	}
	return nil
}

// value begins a value. -1 is NULL; PostgreSQL refuses other negative lengths.
func (v *values) value(length int64) error {
	if !v.list.Holds(max(length, 0)) {
		if err := v.flush(); err != nil {
			return err
		}
		v.list.Reset()
	}
	if length < 0 {
		v.list.Null()
		v.next()
		return nil
	}
	v.list.Begin(length, v.isBinary(), v.typeOf())
	v.length, v.missing, v.step = length, length, stepValue
	if length == 0 {
		v.next()
	}
	return nil
}

// next goes on behind a value.
func (v *values) next() {
	v.index++
	v.step = stepLength
	if v.left--; v.left == 0 {
		v.step = stepRest
	}
}

func (v *values) isBinary() bool {
	switch {
	case len(v.formats) == 1: // for all
		return v.formats[0] == 1
	case v.index < len(v.formats):
		return v.formats[v.index] == 1
	}
	return false
}

func (v *values) typeOf() uint32 {
	if v.index < len(v.types) {
		return v.types[v.index]
	}
	return 0
}
