package relay

import (
	"encoding/binary"
	"time"
)

// maxMessage is the greatest length word that PostgreSQL takes, PQ_LARGE_MESSAGE_LIMIT in src/include/libpq/libpq.h. (13
// has no such limit and fails for want of memory.)
const maxMessage = 0x3ffffffe

// Part is what a burst holds of one message: all of it, or its beginning, middle or end. It and its bytes are valid until
// the function that was given it returns.
type Part struct {
	Kind  byte      // the message's type
	First bool      // the message begins here
	Bytes []byte    // of its body; may be empty
	Rest  int64     // bytes of its body that are still to come
	At    time.Time // when the burst was read
}

// Frames follows the messages in a stream of bytes without keeping them: type, length word, body
// (https://www.postgresql.org/docs/current/protocol-message-formats.html). It survives any fragmentation, never
// allocates, and copies nothing but a header that straddles two reads.
type Frames struct {
	watched kinds
	see     func(*Part) error
	part    Part // what see is given

	kind    byte    // of the last message that began
	missing int64   // bytes of its body still to come
	header  [5]byte // of the next message, where it straddles two reads
	have    int     // bytes of it
	broken  bool    // a length that PostgreSQL refuses was seen; no boundary can be told any more
	err     error   // that see returned; it is not called any more
}

// NewFrames returns Frames at the beginning of a stream. see is called for each part of the messages of the given types.
func NewFrames(types string, see func(*Part) error) *Frames {
	return &Frames{watched: kindsOf(types), see: see}
}

// kinds is a set of message types, a bit for each.
type kinds [4]uint64

func kindsOf(types string) (k kinds) {
	for _, t := range []byte(types) {
		k[t>>6] |= 1 << (t & 63)
	}
	return k
}

func (k *kinds) has(t byte) bool { return k[t>>6]>>(t&63)&1 == 1 }

// boundary reports that the stream is between two messages.
func (f *Frames) boundary() bool { return f.have == 0 && f.missing == 0 && !f.broken }

// cut makes the last boundary the end of the stream, for whoever passes on nothing behind it.
func (f *Frames) cut() { f.have, f.missing, f.broken = 0, 0, false }

// Scan takes the next bytes of the stream, which were read at the given time, and returns how many of them belong to whole
// messages: b[:whole] ends at the last boundary in b. It is 0 if b has none. The error is the first one that see has
// returned, for this stretch or an earlier one; boundaries are followed nevertheless.
func (f *Frames) Scan(b []byte, at time.Time) (whole int, err error) {
	for pos := 0; pos < len(b) && !f.broken; {
		first := f.missing == 0
		if first {
			n := f.begin(b[pos:])
			pos += n
			if n == 0 || f.have > 0 {
				return whole, f.err
			}
		}
		n := int(min(int64(len(b)-pos), f.missing))
		f.missing -= int64(n)
		if f.watched.has(f.kind) && f.err == nil {
			f.part = Part{Kind: f.kind, First: first, Bytes: b[pos : pos+n], Rest: f.missing, At: at}
			f.err = f.see(&f.part)
		}
		pos += n
		if f.missing == 0 {
			whole = pos
		}
	}
	return whole, f.err
}

// begin reads a header from the start of b, or what is there of it, and returns its length. It is 0 for one that breaks
// the stream.
func (f *Frames) begin(b []byte) (n int) {
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
