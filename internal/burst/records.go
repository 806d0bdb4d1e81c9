package burst

import "encoding/binary"

// records counts TLS records (RFC 8446, section 5.1), to know when a tls.Conn has nothing more to give. To find that out by
// a Read that fails costs an allocation and half a microsecond for each burst.
//
// The count may be too high, which costs that Read. It is never too low.
type records struct {
	known   bool    // that there are records, from the first byte on
	whole   int     // that were read from the socket and, as far as is known, not taken
	missing int     // bytes of the one that is being read
	header  [5]byte // of it, until it is complete
	have    int
	partly  bool // what was taken last may be a part of a record
}

// follow takes the next bytes from the socket.
func (r *records) follow(b []byte) {
	if !r.known {
		return
	}
	for len(b) > 0 {
		if r.missing == 0 {
			n := copy(r.header[r.have:], b)
			b = b[n:]
			if r.have += n; r.have < len(r.header) {
				return
			}
			r.have = 0
			r.missing = int(binary.BigEndian.Uint16(r.header[3:]))
			if r.missing == 0 {
				r.whole++
			}
			continue
		}
		n := min(r.missing, len(b))
		b = b[n:]
		if r.missing -= n; r.missing == 0 {
			r.whole++
		}
	}
}

// taken notes that a Read of the tls.Conn has returned. It has taken one record at least, unless it gave the rest of one
// for which there was no room before; if it failed for want of bytes, it has taken all that were whole.
func (r *records) taken(full, failed bool) {
	switch {
	case failed:
		r.whole = 0
	case !r.partly && r.whole > 0:
		r.whole--
	}
	r.partly = full && !failed
}

// none reports that no byte of any record is left.
func (r *records) none() bool {
	return r.known && r.whole == 0 && r.missing == 0 && r.have == 0 && !r.partly
}
