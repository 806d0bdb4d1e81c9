// Package audit writes and verifies the trail: the append-only record of what Hourgate did, for whom and why. It is
// not a log (logs explain, the trail proves), it holds no query results, and it never holds a secret.
//
// # Format
//
// A trail is a file of JSON lines. Each line is one [Record] and is chained to the one before it:
//
//	{"seq":42,"prev":"<SHA-256 of line 41, hex>","time":"…","event":"session_start",…,"crc":"<CRC-32C, hex>"}
//
// Three fields hold the chain together:
//   - seq counts from 1 without gaps, through restarts and rotated files.
//   - prev is the SHA-256 of the bytes of the line before, without its newline; 64 zeros in the very first line.
//   - crc is the CRC-32C of the line's bytes before `,"crc"`. It shows damage to the last line too, which no prev
//     covers yet.
//
// A line that is removed, added, moved or changed breaks the chain at that place, and [Verify] names it. Neither the
// chain nor the CRC has a key: who can write the file can also cut its end off or write a whole new chain. Against
// that, keep [Summary.LastHash] or a copy of the file where the proxy's machine cannot write.
//
// # What survives
//
// A record is in the kernel when [Trail.Append] returns, so the death of the process (kill -9, a panic, running out of
// memory) loses none. A power cut or a crash of the machine can lose the last seconds, unless [Options.Sync] is set.
// When a write fails half-way, the file is cut back to its last whole record. When the process or the machine dies
// half-way, the next [Open] moves the torn line, which announced an act that never happened, to a file next to the
// trail and says so in a trail_recovered record: the trail itself always holds whole lines only.
//
// The package needs flock(2), so it builds on Linux, macOS and the BSDs.
package audit
