package audit

import (
	"bytes"
	"strconv"
	"time"
)

// MaxResultText is the length in bytes of the longest command tag that a result record holds. PostgreSQL's have 64 at most.
const MaxResultText = 64

// maxQueuedResults bounds the results that wait in memory with [Options.Sync]. It leaves room for what must not be lost.
const maxQueuedResults = maxQueue / 10

// What a result says instead of a command tag. PostgreSQL's own are in capitals.
const (
	ResultSuspended  = "portal suspended" // Rows came, and there may be more; another result for the same call follows, if the client asks
	ResultEmptyQuery = "empty query"
	ResultFunction   = "function call"
	ResultError      = "error"
)

// Result is what became of something that a session asked for, in the server's words. The trail copies what it needs
// before [Trail.Result] returns.
type Result struct {
	Session string // id of the session
	At      time.Time
	Call    uint32 // of the Statement that it belongs to; 0 where the server spoke of its own accord

	Command  []byte // the command tag, such as "INSERT 0 1", or one of the texts above
	SQLState []byte // of an error
	Took     time.Duration
	Rows     int64  // that were returned or changed
	Lost     uint32 // results of the session before this one that could not be recorded
}

// Result records what became of a statement, and says whether it could. It never waits: a result that finds no room is
// lost, and the caller says so in the next one.
func (t *Trail) Result(r *Result) bool {
	if len(r.Command) > MaxResultText || len(r.SQLState) > MaxResultText || len(r.Session) > maxSession || r.Rows < 0 || r.Took < 0 {
		return false
	}
	e := entry{ // name and function are used for what statements don't have
		at: r.At.UnixNano(), kind: kindResult, session: bytesOf(r.Session), text: r.Command, name: r.SQLState,
		call: r.Call, took: int64(r.Took), length: r.Rows, function: r.Lost,
	}
	if t.opts.Sync {
		return t.queue.len() < maxQueuedResults && t.queue.submit(&task{entry: e.clone(), keep: true}) == nil
	}
	end, err := t.spool.Load().record(&e)
	if err != nil {
		return false
	}
	t.call(end)
	return true
}

// addResult adds the line of a result.
func (b *batch) addResult(e *entry) {
	start := len(b.lines)
	l := append(b.open(), `"time":"`...)
	l = b.appendTime(l, e.at)
	l = append(l, b.sameResults...)
	l = appendName(l, `,"session":`, e.session)
	l = appendName(l, `,"code":`, e.name)
	if e.took > 0 {
		l = append(l, `,"duration":`...)
		l = appendSeconds(l, e.took)
	}
	l = appendNumber(l, "call", uint64(e.call))
	l = appendNumber(l, "statement_number", e.number)
	l = appendName(l, `,"command":`, e.text)
	l = appendNumber(l, "rows", uint64(e.length)) //nolint:gosec // G115: never negative, see Result and readEntry
	l = appendNumber(l, "results_lost", uint64(e.function))
	b.close(l, start)
}

// appendSeconds adds a time that something took, in seconds, to the microsecond.
func appendSeconds(l []byte, took int64) []byte {
	micros := uint64(took+500) / 1000 //nolint:gosec // G115: never negative
	l = strconv.AppendUint(l, micros/1e6, 10)
	fraction := micros % 1e6
	if fraction == 0 {
		return l
	}
	l = append(l, ".000000"...)
	digits := l[len(l)-6:]
	for i := 5; i >= 0; i-- {
		digits[i] = byte('0' + fraction%10)
		fraction /= 10
	}
	return bytes.TrimRight(l, "0")
}
