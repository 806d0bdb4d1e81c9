// Package audit writes and verifies the trail: the append-only record of what Hourgate did, for whom and why. It is
// not a log (logs explain, the trail proves), it holds no query results and no secret of ours.
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
// A record that announces an act is in the kernel when [Trail.Append] returns, so the death of the process (kill -9, a
// panic, running out of memory) loses none. What has happened already is queued: see [Event.Announces]. A power cut or a
// crash of the machine can lose the last seconds, unless [Options.Sync] is set. When a write fails half-way, the file is
// cut back to its last whole record. When the process or the machine dies half-way, the next [Open] moves the torn line,
// which announced an act that never happened or is still in the spool, to a file next to the trail and says so in a
// trail_recovered record: the trail itself always holds whole lines only.
//
// One goroutine, the writer, does everything that a disk may hold up. Nothing else of the process waits for a disk that
// stalls for longer than it can afford: docs/decisions/0023.
//
// # Statements
//
// What a session asks the server for is recorded by [Trail.Statement], before it goes upstream. A write(2) for each
// would cost more than relaying it, so a statement is copied into the spool first: a mapped file of fixed size in memory
// that no disk backs, to which a link next to the trail leads, its name ending in ".spool". From there it moves into the
// trail within 200 ms, at once when the spool is half full, and before any record that is appended later, so that a
// session's statements stand between its start and its end. The kernel keeps such a file when the process dies. The next
// [Open] moves what is left in the spool into the trail, after a trail_recovered record that counts it
// (statements_recovered, and statements_dropped for those that nobody was told to be recorded). Each is in the trail
// once; only where the trail itself was moved away after a crash, one may be in both files, with the same
// statement_number. The first bytes of a statement may also be in the file with the torn line.
//
// With [Options.Sync] there is no spool. A power cut loses what is in the spool.
//
// A spool or a trail that is removed, moved or cut short while the process runs is noticed within a second: moved.go,
// place.go. After a clean Close there is no spool, and the last record is trail_closed.
//
// The package needs flock(2), so it builds on Linux, macOS and the BSDs.
package audit
