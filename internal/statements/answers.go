package statements

import (
	"bytes"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/relay"
)

// answers is the half of the watcher that sees replies. It tells the trail what became of what a session asked for: see
// docs/decisions/0049. It finds the request that a reply answers by PostgreSQL's rule that replies come in the order of
// requests (https://www.postgresql.org/docs/current/protocol-flow.html).
//
// Nothing waits for it, and no access depends on it. A server that answers out of order is recorded wrongly.
type answers struct {
	trail Trail
	began time.Time // of the session; times are counted from it
	asked asked     // the other half puts requests in

	now      question // that is being answered
	skipping bool     // an extended query has failed, so nothing is answered until its Sync
	copying  bool     // COPY from the client

	last, before int64 // when answers came last, and in the burst before that
	lost         uint32

	text   [audit.MaxResultText]byte // of a message that is gathered
	held   int
	field  byte // of an ErrorResponse, or tagEnded
	result audit.Result
}

// answerKinds are the replies that end something, or change how what follows must be read.
const answerKinds = "123CEIsVZGTn"

func newAnswers(trail Trail, session string, began time.Time) *answers {
	chunk := new(askedChunk)
	a := &answers{trail: trail, began: began, asked: asked{head: chunk, tail: chunk}}
	a.result.Session = session
	return a
}

// reply takes a part of a message of the server's.
func (a *answers) reply(m *relay.Part) {
	switch m.Kind {
	case 'C', 'E': // CommandComplete, ErrorResponse
		a.gather(m)
		if m.Rest > 0 {
			return
		}
	default:
		if !m.First {
			return
		}
	}
	switch m.Kind {
	case '1': // ParseComplete
		a.answer("P")
	case '2': // BindComplete
		a.answer("B")
	case '3': // CloseComplete
		a.answer("C")
	case 'T', 'n': // RowDescription, NoData: of a Describe, or within a Query
		a.described()
	case 'G': // CopyInResponse
		a.copyBegins()
	case 'C': // CommandComplete
		a.complete(a.text[:a.held], rowsOf(a.text[:a.held]), m.At)
	case 'I': // EmptyQueryResponse
		a.complete(emptyQuery, 0, m.At)
	case 's': // PortalSuspended
		if r := a.find("E"); r != nil {
			a.complete(suspended, int64(r.limit), m.At)
		}
	case 'V': // FunctionCallResponse
		if r := a.find("F"); r != nil {
			a.tell(r, functionCall, nil, 0, m.At)
		}
	case 'E':
		a.failed(a.text[:a.held], m.At)
	case 'Z': // ReadyForQuery
		a.ready(m.At)
	}
}

var (
	emptyQuery   = []byte(audit.ResultEmptyQuery)
	suspended    = []byte(audit.ResultSuspended)
	functionCall = []byte(audit.ResultFunction)
	failure      = []byte(audit.ResultError)
)

// find returns the oldest request, once all are taken out that can't have a reply of the kind that came: their answer was
// another, or they have none. It returns nil if there is no other.
func (a *answers) find(kinds string) *question {
	for {
		if a.now.kind == 0 {
			r := a.asked.peek()
			if r == nil {
				return nil
			}
			a.now = *r
			a.asked.take()
		}
		for i := range len(kinds) {
			if a.now.kind == kinds[i] {
				return &a.now
			}
		}
		a.now.kind = 0
	}
}

// answer is for requests of which nothing is recorded if they go well.
func (a *answers) answer(kind string) {
	if a.find(kind) != nil {
		a.now.kind = 0
	}
}

func (a *answers) described() {
	if r := a.find("DQ"); r != nil && r.kind == 'D' {
		r.kind = 0
	}
}

// complete ends an Execute, or one statement of a Query.
func (a *answers) complete(command []byte, rows int64, at time.Time) {
	r := a.find("QE")
	a.tell(r, command, nil, rows, at)
	a.copyEnds(true)
	if r != nil && r.kind == 'E' {
		r.kind = 0
	}
}

// failed ends any request. What was sent behind it in an extended query is not answered.
func (a *answers) failed(code []byte, at time.Time) {
	var r *question
	if !a.skipping {
		r = a.find("PBDECQFS")
	}
	a.tell(r, failure, code, 0, at)
	a.copyEnds(false)
	if r == nil {
		return
	}
	switch r.kind {
	case 'Q', 'F', 'S': // ReadyForQuery follows
	default:
		r.kind, a.skipping = 0, true
	}
}

func (a *answers) ready(at time.Time) {
	a.answered(at)
	kinds := "QFS"
	if a.skipping {
		kinds, a.skipping = "S", false
	}
	if a.find(kinds) == nil {
		a.asked.ready()
	}
	a.now.kind = 0
}

// copyBegins takes out the Syncs that the client has sent already: PostgreSQL ignores them within a COPY.
func (a *answers) copyBegins() {
	a.find("QE")
	a.copying = true
	for r := a.asked.peek(); r != nil && r.kind == 'S'; r = a.asked.peek() {
		a.asked.take()
	}
}

// copyEnds takes out the CopyDone or CopyFail, and when the server has read that, the Syncs before it.
func (a *answers) copyEnds(read bool) {
	if !a.copying {
		return
	}
	a.copying = false
	for r := a.asked.peek(); r != nil; r = a.asked.peek() {
		end := r.kind == 'c' || r.kind == 'f'
		if !end && (!read || r.kind != 'S') {
			return
		}
		a.asked.take()
		if end {
			return
		}
	}
}

// answered notes when an answer came, and returns when the one came that was not in the same burst.
func (a *answers) answered(at time.Time) (now, before int64) {
	now = int64(at.Sub(a.began))
	if now != a.last {
		a.before, a.last = a.last, now
	}
	return now, a.before
}

// tell records a result. r is nil if the server speaks of its own accord, such as when it shuts down, or if the request
// was forgotten.
func (a *answers) tell(r *question, command, code []byte, rows int64, at time.Time) {
	now, before := a.answered(at)
	res := &a.result
	res.At, res.Command, res.SQLState, res.Rows, res.Call, res.Took = at, command, code, rows, 0, 0
	if r != nil {
		res.Call, res.Took = r.call, time.Duration(max(now-max(r.at, before), 0))
	}
	res.Lost = a.lost
	if a.trail.Result(res) {
		a.lost = 0
	} else {
		a.lost++
	}
}

const tagEnded = 1

// gather keeps a command tag, or the SQLSTATE of an error: fields of a type and a text that ends in NUL, until another NUL.
func (a *answers) gather(m *relay.Part) {
	if m.First {
		a.held, a.field = 0, 0
	}
	b := m.Bytes
	if m.Kind == 'C' {
		if text, _, ends := bytes.Cut(b, []byte{0}); a.field != tagEnded {
			a.held += copy(a.text[a.held:], text)
			if ends {
				a.field = tagEnded
			}
		}
		return
	}
	for len(b) > 0 {
		if a.field == 0 {
			a.field, b = b[0], b[1:]
			continue
		}
		text, rest, ends := bytes.Cut(b, []byte{0})
		if a.field == 'C' {
			a.held += copy(a.text[a.held:], text)
		}
		if b = rest; ends {
			a.field = 0
		}
	}
}

// rowsOf is the number at the end of a command tag.
func rowsOf(tag []byte) (rows int64) {
	digits := tag[bytes.LastIndexByte(tag, ' ')+1:]
	if len(digits) > 18 || len(digits) == len(tag) {
		return 0
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0
		}
		rows = rows*10 + int64(c-'0')
	}
	return rows
}
