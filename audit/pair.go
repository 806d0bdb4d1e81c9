package audit

// Pairer puts results to their statements. It holds records back for a while, since a result comes later than its
// statement; one that comes too late goes on as a record of its own.
type Pairer struct {
	// Emit is given the records in their order. Required.
	Emit func(*Record) error

	held  []*Record
	bytes int              // of what they asked for
	calls map[call]*Record // of those that are held
}

type call struct {
	session string
	number  uint32
}

// How much is held back.
const (
	pairRecords = 4096
	pairBytes   = 32 << 20

	maxCommands = 200 // bytes of command tags for one statement
)

// Add takes the next record of a trail.
func (p *Pairer) Add(r *Record) error {
	key := call{r.Session, r.Call}
	if r.Event == StatementResult {
		if asked := p.calls[key]; asked != nil {
			asked.answeredBy(r)
			return nil
		}
	}
	if r.Event == SessionStatement && r.Call != 0 {
		if p.calls == nil {
			p.calls = make(map[call]*Record)
		}
		p.calls[key] = r
	}
	p.held = append(p.held, r)
	p.bytes += r.size()
	for len(p.held) > pairRecords || p.bytes > pairBytes {
		if err := p.emit(); err != nil {
			return err
		}
	}
	return nil
}

// Flush ends the trail.
func (p *Pairer) Flush() error {
	for len(p.held) > 0 {
		if err := p.emit(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pairer) emit() error {
	r := p.held[0]
	p.held[0] = nil
	p.held = p.held[1:]
	p.bytes -= r.size()
	if key := (call{r.Session, r.Call}); p.calls[key] == r {
		delete(p.calls, key)
	}
	return p.Emit(r)
}

func (r *Record) size() int {
	n := len(r.Statement) + len(r.StatementBase64)
	for _, p := range r.Parameters {
		n += len(p.Text) + len(p.Base64) + len(p.Hex)
	}
	return n
}

// answeredBy adds a result to its statement. Several make one: all commands as far as there is room, all rows, and the time
// from the statement to the last.
func (r *Record) answeredBy(result *Record) {
	r.Rows += result.Rows
	r.ResultsLost += result.ResultsLost
	if result.Code != "" {
		r.Code = result.Code
	}
	switch {
	case r.Command == "":
		r.Command, r.Duration = result.Command, result.Duration
		return
	case len(r.Command) < maxCommands:
		r.Command += "; " + result.Command
	case r.Command[len(r.Command)-len("…"):] != "…":
		r.Command += "; …"
	}
	r.Duration = max(result.Time.Sub(r.Time).Seconds(), 0)
}
