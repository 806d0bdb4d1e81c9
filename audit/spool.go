package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// spool is where statements, and records of what has happened, wait until the writer moves them into the trail: a file of
// fixed size that is mapped (MAP_SHARED) and used as a ring. What is in it is the kernel's, so it outlives the process, and
// putting it there needs no system call and no lock. Where the file is: see place.go.
//
// # Layout
//
// After a page for the header come slots of 256 bytes. Slots are numbered from the spool's beginning to its end of
// life, without going back to 0; slot n is at place n modulo the number of slots. A record takes as many slots as it
// needs. The first word of each slot is never part of a record's contents: in a record's first slot it is the seal,
// and anywhere else it is 0. A client's bytes can thus never be taken for a record.
//
// # Life of a slot
//
//	free      word 0      a producer takes it by moving head
//	taken     word 0      the producer copies its record in; dies it here, then the statement was never sent
//	sealed    word ≠ 0    the record counts: the statement may be sent
//	drained   word ≠ 0    the record is in the trail and drained is past it
//	free      word 0      free is past it
//
// Producers touch head and the slots that they took. The rest is the writer's.
type spool struct {
	path  string
	file  *os.File
	mem   []byte // the whole file
	slots uint64 // a power of two
	_     [64]byte

	head atomic.Uint64 // next slot that nobody took, and the bit spoolClosed
	_    [64]byte

	limit atomic.Uint64 // first slot that is not free yet: free + slots
	_     [64]byte

	bad atomic.Bool // the file is shorter than the memory, or damaged: the writer makes another spool
	_   [64]byte

	// The writer's. The header has both, too, for whoever comes after our death.
	drained uint64
	free    uint64
	gather  []byte // a record of more than one slot, put together
}

const (
	spoolMagic   = 0x334c4f4f50534748 // HGSPOOL3
	spoolClosed  = 1 << 63            // bit of head
	spoolHeader  = 4096
	slotBytes    = 256
	slotContents = slotBytes - 8
	fixedBytes   = 56 // of a record, before its session, names and text
	maxSlots     = (fixedBytes+3*maxSession+2*MaxStatementName+MaxStatementText)/slotContents + 1

	// DefaultSpool is the size of the spool in bytes when Options don't say.
	DefaultSpool = 8 << 20
	minSpool     = 512 << 10 // some of the longest statements
)

// The header's words.
const (
	wordMagic   = 0
	wordSlots   = 8
	wordDrained = 16 // slots below it are in the trail
	wordFree    = 24 // slots below it are free again. Those from here to drained are being freed
)

var errSpoolDamaged = errors.New("damaged or no spool: look at it, move it away, and start again")

// newSpool makes a spool of a new and locked file. Slots are numbered from start.
func newSpool(f *os.File, size int64, start uint64) (*spool, error) {
	slots := uint64(1) << (bits.Len64(uint64(max(size, minSpool))/slotBytes) - 1)
	size = int64(spoolHeader + slots*slotBytes) //nolint:gosec // G115: from an int64
	if err := allocate(f, size); err != nil {
		return nil, fmt.Errorf("allocating %d bytes in %s: %w", size, filepath.Dir(f.Name()), err)
	}
	s := &spool{path: f.Name(), file: f, slots: slots, drained: start, free: start}
	var err error
	if s.mem, err = mapFile(f, size); err != nil {
		return nil, err
	}
	s.word(wordSlots).Store(slots)
	s.word(wordDrained).Store(start)
	s.word(wordFree).Store(start)
	s.word(wordMagic).Store(spoolMagic) // last: without it, the next Open takes the file for unfinished
	s.head.Store(start)
	s.limit.Store(start + slots)
	return s, nil
}

// leftSpool opens the spool that a dead process has left. It returns nil when the file was never finished.
func leftSpool(path string) (_ *spool, err error) {
	f, err := openLocked(path)
	if err != nil {
		return nil, err
	}
	s := &spool{path: path, file: f}
	defer func() {
		if err != nil {
			_ = s.close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < spoolHeader {
		return nil, closeLocked(f)
	}
	if s.mem, err = mapFile(f, info.Size()); err != nil {
		return nil, err
	}
	if s.word(wordMagic).Load() == 0 {
		return nil, s.close()
	}
	return s, s.checkHeader()
}

// checkHeader looks at what everything else relies on, so that a hostile file can't lead outside of the memory.
func (s *spool) checkHeader() error {
	s.slots = s.word(wordSlots).Load()
	s.drained, s.free = s.word(wordDrained).Load(), s.word(wordFree).Load()
	switch {
	case s.word(wordMagic).Load() != spoolMagic,
		s.slots > 1<<32, bits.OnesCount64(s.slots) != 1, uint64(len(s.mem)) != spoolHeader+s.slots*slotBytes,
		s.drained >= spoolClosed>>1, s.free > s.drained, s.drained-s.free > s.slots:
		return errSpoolDamaged
	}
	return nil
}

func mapFile(f *os.File, size int64) ([]byte, error) {
	mem, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping: %w", err)
	}
	return mem, nil
}

// close gives up the memory and the lock. Nobody may be between taking and sealing slots, and it is called once.
func (s *spool) close() error {
	if s == nil {
		return nil
	}
	var err error
	if s.mem != nil {
		err = syscall.Munmap(s.mem)
	}
	return errors.Join(err, closeLocked(s.file))
}

// word is an aligned word of the file, shared with whoever reads the file after our death.
func (s *spool) word(at uint64) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&s.mem[at])) //nolint:gosec // G103: aligned, since at is a multiple of 8
}

// place is where a slot begins in the file.
func (s *spool) place(slot uint64) uint64 { return spoolHeader + slot&(s.slots-1)*slotBytes }

var (
	errSpoolFull = errors.New("spool is full")
	errSpoolGone = errors.New("spool was closed or cut short")
)

// record puts an entry into the spool, and returns the slot behind it.
func (s *spool) record(e *entry) (end uint64, err error) {
	n := e.size()
	first, err := s.take(n)
	if err != nil {
		return 0, err
	}
	return first + n, s.guard(func() error {
		s.put(first, n, e)
		return nil
	})
}

// guard runs f, which uses the spool's memory. When the file was cut short, that memory is no more, and the signal of
// whoever touches it becomes an error.
func (s *spool) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			if fault, ok := v.(interface{ Addr() uintptr }); !ok || !s.holds(fault.Addr()) {
				panic(v)
			}
			s.bad.Store(true)
			err = errSpoolGone
		}
	}()
	return f()
}

// holds says whether an address is in the spool's memory.
func (s *spool) holds(address uintptr) bool {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(s.mem))) //nolint:gosec // G103: only compared
	return address >= start && address < start+uintptr(len(s.mem))
}

// used is how many bytes wait for the writer.
func (s *spool) used() int64 {
	return int64(s.head.Load()&^spoolClosed-(s.limit.Load()-s.slots)) * slotBytes //nolint:gosec // G115: at most slots
}

// take gives the caller slots of its own, in one atomic step.
func (s *spool) take(n uint64) (first uint64, err error) {
	for {
		head := s.head.Load()
		if head&spoolClosed != 0 {
			return 0, errSpoolGone
		}
		if head+n > s.limit.Load() {
			return 0, errSpoolFull
		}
		if s.head.CompareAndSwap(head, head+n) {
			return head, nil
		}
	}
}

// size is the number of slots that an entry needs.
func (e *entry) size() uint64 {
	n := fixedBytes + len(e.session) + len(e.user) + len(e.grant) + len(e.name) + len(e.portal) + len(e.text)
	return uint64(n+slotContents-1) / slotContents
}

// put copies an entry into slots that the caller took, and seals it. From then on it counts. It can't fail: a failure
// between take and seal would hold up everything behind it.
func (s *spool) put(first, slots uint64, e *entry) {
	w := slotWriter{spool: s, next: first}
	var fixed [fixedBytes]byte
	binary.LittleEndian.PutUint64(fixed[0:], first)
	binary.LittleEndian.PutUint64(fixed[8:], uint64(e.at))      //nolint:gosec // G115: bits, read back as they are
	binary.LittleEndian.PutUint64(fixed[16:], uint64(e.length)) //nolint:gosec // G115: never negative
	binary.LittleEndian.PutUint32(fixed[24:], e.function)
	binary.LittleEndian.PutUint32(fixed[28:], uint32(len(e.text)))   //nolint:gosec // G115: MaxStatementText
	binary.LittleEndian.PutUint16(fixed[32:], uint16(len(e.name)))   //nolint:gosec // G115: MaxStatementName
	binary.LittleEndian.PutUint16(fixed[34:], uint16(len(e.portal))) //nolint:gosec // G115: MaxStatementName
	fixed[36], fixed[37] = uint8(len(e.session)), e.kind             //nolint:gosec // G115: maxSession
	fixed[38], fixed[39] = bit(e.redacted), 0
	fixed[40], fixed[41] = uint8(len(e.user)), uint8(len(e.grant)) //nolint:gosec // G115: maxSession
	binary.LittleEndian.PutUint32(fixed[44:], e.call)
	binary.LittleEndian.PutUint64(fixed[48:], uint64(e.took)) //nolint:gosec // G115: never negative
	w.write(fixed[:])
	w.write(e.session)
	w.write(e.user)
	w.write(e.grant)
	w.write(e.name)
	w.write(e.portal)
	w.write(e.text)
	w.finish()
	s.word(s.place(first)).Store(uint64(w.crc)<<32 | slots<<16 | 1)
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// slotWriter spreads an entry over its slots and sums it up.
type slotWriter struct {
	spool *spool
	next  uint64 // slot
	slot  []byte // contents of the slot that is being filled
	used  int
	crc   uint32
}

func (w *slotWriter) write(b []byte) {
	for len(b) > 0 {
		if w.used == len(w.slot) {
			w.finish()
			at := w.spool.place(w.next)
			w.slot, w.used, w.next = w.spool.mem[at+8:at+slotBytes], 0, w.next+1
		}
		n := copy(w.slot[w.used:], b)
		w.used, b = w.used+n, b[n:]
	}
}

func (w *slotWriter) finish() { w.crc = crc32.Update(w.crc, castagnoli, w.slot[:w.used]) }

// sealed says how many slots the record at slot has that a producer has sealed; 0 when it has not.
func (s *spool) sealed(slot uint64) (slots uint64) {
	return s.word(s.place(slot)).Load() >> 16 & 0xffff
}

// read returns the record that begins at a slot and ends before limit, and false when what is there is none. The
// entry is valid until the slots are freed, or the next read.
func (s *spool) read(slot, limit uint64) (e entry, slots uint64, ok bool) {
	seal := s.word(s.place(slot)).Load()
	slots = seal >> 16 & 0xffff
	if slots == 0 || slots > maxSlots || slots > s.slots || slot+slots > limit {
		return entry{}, 0, false
	}
	at := s.place(slot)
	contents := s.mem[at+8 : at+slotBytes]
	if slots > 1 {
		s.gather = s.gather[:0]
		for n := range slots {
			at := s.place(slot + n)
			s.gather = append(s.gather, s.mem[at+8:at+slotBytes]...)
		}
		contents = s.gather
	}
	e, ok = readEntry(contents, uint32(seal>>32))
	return e, slots, ok && e.number == slot && e.size() == slots
}

// readEntry takes an entry apart. It trusts nothing.
func readEntry(b []byte, crc uint32) (e entry, ok bool) {
	if len(b) < fixedBytes {
		return entry{}, false
	}
	fixed, rest := b[:fixedBytes], b[fixedBytes:]
	e.number = binary.LittleEndian.Uint64(fixed[0:])
	e.at = int64(binary.LittleEndian.Uint64(fixed[8:]))      //nolint:gosec // G115: bits, written as they were
	e.length = int64(binary.LittleEndian.Uint64(fixed[16:])) //nolint:gosec // G115: as above
	e.function = binary.LittleEndian.Uint32(fixed[24:])
	e.kind, e.redacted = fixed[37], fixed[38] != 0
	e.call = binary.LittleEndian.Uint32(fixed[44:])
	e.took = int64(binary.LittleEndian.Uint64(fixed[48:])) //nolint:gosec // G115: as above
	cut := func(n int) (field []byte) {
		if n > len(rest) {
			rest, ok = nil, false
			return nil
		}
		field, rest = rest[:n:n], rest[n:]
		return field
	}
	ok = true
	e.session = cut(int(fixed[36]))
	e.user = cut(int(fixed[40]))
	e.grant = cut(int(fixed[41]))
	e.name = cut(int(binary.LittleEndian.Uint16(fixed[32:])))
	e.portal = cut(int(binary.LittleEndian.Uint16(fixed[34:])))
	e.text = cut(int(min(binary.LittleEndian.Uint32(fixed[28:]), MaxStatementText+1)))
	ok = ok && fixed[38] <= 1 && fixed[39]|fixed[42]|fixed[43] == 0 && e.length >= 0 && e.took >= 0 && e.kind > 0 && int(e.kind) < len(statementKinds) &&
		len(e.text) <= MaxStatementText && len(e.name) <= MaxStatementName && len(e.portal) <= MaxStatementName &&
		(e.kind != kindRecord || isBody(e.text)) &&
		crc32.Checksum(b[:len(b)-len(rest)], castagnoli) == crc
	return e, ok
}

// isBody reports whether a text can be a line's body: it must not end the line, nor the record.
func isBody(text []byte) bool {
	return bytes.IndexByte(text, '\n') < 0 && json.Valid(slices.Concat([]byte("{"), text, []byte("}")))
}

// drain counts the slots below end as drained: they are in the trail.
func (s *spool) drain(end uint64) {
	s.drained = end
	s.word(wordDrained).Store(end)
}

// release frees the drained slots. Whoever dies in the middle leaves free behind drained, and nobody looks between.
func (s *spool) release() {
	for slot := s.free; slot < s.drained; {
		n := max(s.sealed(slot), 1)
		s.word(s.place(slot)).Store(0)
		slot += n
	}
	s.free = s.drained
	s.word(wordFree).Store(s.free)
	s.limit.Store(s.free + s.slots)
}

// firstSlot numbers slots so that later spools have higher numbers, even when the clock was set back.
func firstSlot(after uint64) uint64 {
	return max(after, uint64(time.Now().UnixMicro()))
}
