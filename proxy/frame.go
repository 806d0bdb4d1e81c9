package proxy

import "encoding/binary"

// frames follows the messages in a stream of bytes without keeping them: type, length word, body
// (https://www.postgresql.org/docs/current/protocol-message-formats.html). It survives any fragmentation, never
// allocates, and copies nothing but a header that straddles two reads.
type frames struct {
	header  [5]byte
	have    int   // bytes of header seen; 5 while in a body
	missing int64 // bytes of the body still to come
	broken  bool  // a length below 4 was seen; no boundary can be told any more
}

// boundary reports that the stream is between two messages.
func (f *frames) boundary() bool { return f.have == 0 && !f.broken }

// visitor looks at messages as they pass. part is what the bytes at hand hold of the body; start is set for the first
// part of a message, which may be empty.
type visitor func(kind byte, start bool, part []byte)

// scan takes the next bytes of the stream and returns how many of them belong to whole messages: b[:whole] ends at the
// last boundary in b. It is 0 if b has none.
func (f *frames) scan(b []byte, visit visitor) (whole int) {
	for at := 0; at < len(b) && !f.broken; {
		start := f.have < len(f.header)
		if start {
			n := copy(f.header[f.have:], b[at:])
			f.have += n
			at += n
			if f.have < len(f.header) {
				return whole
			}
			length := binary.BigEndian.Uint32(f.header[1:])
			if length < 4 {
				f.broken = true
				return whole
			}
			f.missing = int64(length) - 4
		}
		n := int(min(int64(len(b)-at), f.missing))
		visit(f.header[0], start, b[at:at+n])
		at += n
		if f.missing -= int64(n); f.missing == 0 {
			f.have = 0
			whole = at
		}
	}
	return whole
}
