package proxy

import "encoding/binary"

// maxMessage is the greatest length word that PostgreSQL takes, PQ_LARGE_MESSAGE_LIMIT in src/include/libpq/libpq.h. (13
// has no such limit and fails for want of memory.)
const maxMessage = 0x3ffffffe

// frames follows the messages in a stream of bytes without keeping them: type, length word, body
// (https://www.postgresql.org/docs/current/protocol-message-formats.html). It survives any fragmentation, never
// allocates, and copies nothing but a header that straddles two reads.
type frames struct {
	watched *kinds
	visit   visitor

	kind    byte    // of the last message that began
	missing int64   // bytes of its body still to come
	header  [5]byte // of the next message, where it straddles two reads
	have    int     // bytes of it
	broken  bool    // a length that PostgreSQL refuses was seen; no boundary can be told any more
}

// visitor looks at messages as they pass, if their kind is watched. part is what the bytes at hand hold of the body, which
// may be nothing; first says that the message begins with it, and rest how many bytes of the body are still to come.
type visitor func(kind byte, first bool, part []byte, rest int64)

// kinds is a set of message types.
type kinds [256]bool

func kindsOf(types string) *kinds {
	var k kinds
	for _, t := range []byte(types) {
		k[t] = true
	}
	return &k
}

// boundary reports that the stream is between two messages.
func (f *frames) boundary() bool { return f.have == 0 && f.missing == 0 && !f.broken }

// cut makes the last boundary the end of the stream, for whoever passes on nothing behind it.
func (f *frames) cut() { f.have, f.missing, f.broken = 0, 0, false }

// scan takes the next bytes of the stream and returns how many of them belong to whole messages: b[:whole] ends at the
// last boundary in b. It is 0 if b has none.
func (f *frames) scan(b []byte) (whole int) {
	for at := 0; at < len(b) && !f.broken; {
		first := f.missing == 0
		if first {
			n := f.begin(b[at:])
			at += n
			if n == 0 || f.have > 0 {
				return whole
			}
		}
		n := int(min(int64(len(b)-at), f.missing))
		f.missing -= int64(n)
		if f.watched[f.kind] {
			f.visit(f.kind, first, b[at:at+n], f.missing)
		}
		at += n
		if f.missing == 0 {
			whole = at
		}
	}
	return whole
}

// begin reads a header from the start of b, or what is there of it, and returns its length. It is 0 for one that breaks
// the stream.
func (f *frames) begin(b []byte) (n int) {
	header := b
	n = len(f.header)
	if f.have > 0 || len(b) < n {
		n = copy(f.header[f.have:], b)
		if f.have += n; f.have < len(f.header) {
			return n
		}
		f.have = 0
		header = f.header[:]
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 4 || length > maxMessage {
		f.broken = true
		return 0
	}
	f.kind, f.missing = header[0], int64(length)-4
	return n
}
