package desk

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/policy"
)

// A statement is what somebody wants, once all its parameters are known.
type statement struct {
	verb    string // such as SHOW ACCESS
	id      int64
	words   []string // names, in order
	access  string
	targets []string
	length  time.Duration // after FOR
	until   time.Time
	reason  string
	flow    string
}

// A form is one kind of statement.
type form struct {
	verb    string
	takes   string // "", id, ask, lock, unlock, session
	clauses string // that may follow, in any order, separated by spaces
	columns []string
	help    string
	example string
}

var (
	requestColumns = []string{"id", "state", "user", "access", "target", "for", "until", "reason", "flow", "decided_by", "note"}
	accessColumns  = []string{"status", "access", "target", "until", "grant_or_flow", "how"}
	sessionColumns = []string{"id", "user", "access", "target", "grant", "client", "application", "since", "until", "state"}
	lockColumns    = []string{"lock", "name", "reason", "until", "by", "since", "where"}
	grantColumns   = []string{"grant", "state", "who", "target", "access", "until", "reason"}
	doneColumns    = []string{"result"}
)

// forms are all there are. A form whose verb is the beginning of another's comes after it.
var forms = []form{
	{"SHOW ACCESS", "", "", accessColumns, "what you have, until when, and what you can ask for", "SHOW ACCESS;"},
	{"SHOW REQUESTS", "", "", requestColumns, "your requests, and those that you decide", "SHOW REQUESTS;"},
	{"SHOW REQUEST", "id", "", requestColumns, "one of them", "SHOW REQUEST 17;"},
	{"SHOW SESSIONS", "", "", sessionColumns, "your sessions; an operator sees all", "SHOW SESSIONS;"},
	{"SHOW GRANTS", "", "", grantColumns, "what is in force: grants of the policy and of requests (operators)", "SHOW GRANTS;"},
	{"SHOW LOCKS", "", "", lockColumns, "what is locked (operators)", "SHOW LOCKS;"},
	{"SHOW HELP", "", "", []string{"statement", "what_it_does"}, "", ""},
	{"HELP", "", "", []string{"statement", "what_it_does"}, "this", "HELP;"},
	{"REQUEST", "ask", "FOR REASON UNDER", requestColumns, "asks for access", "REQUEST READ_WRITE ON orders-prod FOR '2 hours' REASON 'INC-4211 refund';"},
	{"BREAK GLASS", "ask", "FOR REASON UNDER", requestColumns, "asks for access in an emergency: at once, and to be reviewed", "BREAK GLASS READ_WRITE ON orders-prod FOR '30 minutes' REASON 'INC-4211 all is down';"},
	{"WAIT", "id", "FOR", requestColumns, "waits until a request is decided", "WAIT 17 FOR '5 minutes';"},
	{"APPROVE", "id", "FOR AS REASON", requestColumns, "approves a request; FOR shortens it, AS lowers it. An extension needs FOR", "APPROVE 17 FOR '1 hour' AS READ_ONLY;"},
	{"DENY", "id", "REASON", requestColumns, "denies it", "DENY 17 REASON 'ask the owner';"},
	{"EXTEND", "id", "FOR REASON", requestColumns, "asks for more time; sessions go on", "EXTEND 17 FOR '1 hour';"},
	{"END", "id", "REASON", requestColumns, "ends your access or withdraws your request; revokes one that you decide", "END 17;"},
	{"REVOKE", "id", "REASON", requestColumns, "the same as END", "REVOKE 17 REASON 'not needed';"},
	{"REVIEW", "id", "REASON", requestColumns, "reviews somebody's use of break-glass", "REVIEW 17 REASON 'was right';"},
	{"KILL", "session", "", doneColumns, "ends a session of yours; an operator ends any", "KILL '0123456789abcdef';"},
	{"LOCK", "lock", "FOR UNTIL REASON", doneColumns, "stops a user, grant, integration or everything (operators)", "LOCK USER bob@example.com REASON 'laptop stolen';"},
	{"UNLOCK", "unlock", "", doneColumns, "lifts a lock (operators)", "UNLOCK USER bob@example.com;"},
}

// match finds the form of a statement and the tokens behind its verb.
func match(tokens []token) (*form, []token, error) {
	for i := range forms {
		words := strings.Fields(forms[i].verb)
		if len(tokens) >= len(words) && !slices.ContainsFunc(indexes(words), func(k int) bool { return !tokens[k].is(words[k]) }) {
			return &forms[i], tokens[len(words):], nil
		}
	}
	return nil, nil, errNoSQL
}

var errNoSQL = &Error{
	Code: pgerrcode.FeatureNotSupported, Message: "this database takes statements about access only, no SQL",
	Hint: "HELP; shows the statements. Data is in the other databases of this gate.",
}

// ours reports whether a statement begins as one of the forms.
func ours(sql string) bool {
	first := strings.ToUpper(skipSpace(sql))
	return slices.ContainsFunc(forms, func(f form) bool {
		word, _, _ := strings.Cut(f.verb, " ")
		return strings.HasPrefix(first, word)
	})
}

func indexes(words []string) []int {
	all := make([]int, len(words))
	for i := range all {
		all[i] = i
	}
	return all
}

func (t token) is(word string) bool {
	return !t.quoted && t.param == 0 && strings.EqualFold(t.text, word)
}

// A parser reads what follows a verb.
type parser struct {
	tokens []token
	args   []*string // nil while only the form is of interest
}

// parse reads a statement. Without args parameters stand for themselves, so that a statement can be described before they
// are known.
func parse(sql string, args []*string) (*form, statement, int, error) {
	tokens, err := lex(sql)
	if err != nil {
		if !ours(sql) {
			err = errNoSQL // an IDE's catalog query, most likely
		}
		return nil, statement{}, 0, err
	}
	f, rest, err := match(tokens)
	if err != nil {
		return nil, statement{}, 0, err
	}
	params := 0
	for _, t := range rest {
		params = max(params, t.param)
	}
	p := &parser{rest, args}
	s := statement{verb: f.verb}
	if err := p.subject(f, &s); err != nil {
		return nil, s, 0, err
	}
	if err := p.clauses(f, &s); err != nil {
		return nil, s, 0, err
	}
	return f, s, params, nil
}

// done reports that there is nothing more.
func (p *parser) done() bool { return len(p.tokens) == 0 }

// value takes a word, a string or a parameter.
func (p *parser) value(what string) (string, error) {
	if p.done() || p.tokens[0].comma {
		return "", syntax("%s is missing", what)
	}
	t := p.tokens[0]
	p.tokens = p.tokens[1:]
	switch {
	case t.param == 0 || p.args == nil:
		return t.text, nil
	case t.param > len(p.args):
		return "", syntax("there is no parameter $%d", t.param)
	case p.args[t.param-1] == nil:
		return "", &Error{Code: pgerrcode.NullValueNotAllowedDataException, Message: what + " can't be NULL"}
	}
	return *p.args[t.param-1], nil
}

// described reports that the next value is a parameter whose value is not known yet.
func (p *parser) described() bool { return p.args == nil && !p.done() && p.tokens[0].param > 0 }

func (p *parser) word(word string) error {
	if p.done() || !p.tokens[0].is(word) {
		return syntax("%s is missing", word)
	}
	p.tokens = p.tokens[1:]
	return nil
}

func (p *parser) subject(f *form, s *statement) (err error) {
	switch f.takes {
	case "id":
		return p.number(s)
	case "ask":
		return p.ask(s)
	case "session":
		var id string
		id, err = p.value("the session")
		s.words = []string{id}
	case "lock", "unlock":
		return p.lock(s)
	}
	return err
}

func (p *parser) number(s *statement) error {
	if p.described() {
		p.tokens = p.tokens[1:]
		return nil
	}
	text, err := p.value("the number of the request")
	if err != nil {
		return err
	}
	if s.id, err = strconv.ParseInt(strings.TrimPrefix(text, "request-"), 10, 64); err != nil || s.id < 1 {
		return &Error{Code: pgerrcode.InvalidParameterValue, Message: "want the number of a request, got " + strconv.Quote(shorten(text)), Hint: "SHOW REQUESTS; lists them."}
	}
	return nil
}

// ask reads access ON target, target….
func (p *parser) ask(s *statement) (err error) {
	if s.access, err = p.value("the access, such as READ_ONLY,"); err != nil {
		return err
	}
	s.access = policy.LevelName(s.access)
	if err := p.word("ON"); err != nil {
		return err
	}
	for {
		target, err := p.value("the integration")
		if err != nil {
			return err
		}
		s.targets = append(s.targets, target)
		if p.done() || !p.tokens[0].comma {
			return nil
		}
		p.tokens = p.tokens[1:]
	}
}

func (p *parser) lock(s *statement) error {
	kind, err := p.value("USER, GRANT, INTEGRATION or ALL")
	if err != nil {
		return err
	}
	kind = strings.ToLower(kind)
	if !slices.Contains(policy.LockKinds, policy.LockKind(kind)) {
		return syntax("want USER, GRANT, INTEGRATION or ALL, got %q", shorten(kind))
	}
	s.words = []string{kind, ""}
	if kind != string(policy.LockAll) {
		s.words[1], err = p.value("the name of the " + kind)
	}
	return err
}

// clauses reads those that f allows, each once.
func (p *parser) clauses(f *form, s *statement) error {
	var seen []string
	for !p.done() {
		t := p.tokens[0]
		word := strings.ToUpper(t.text)
		switch {
		case t.quoted || t.param > 0 || t.comma || !slices.Contains(strings.Fields(f.clauses), word):
			return syntax("syntax error at or near %q", shorten(t.text))
		case slices.Contains(seen, word):
			return syntax("%s comes twice", word)
		}
		seen = append(seen, word)
		p.tokens = p.tokens[1:]
		if p.described() {
			p.tokens = p.tokens[1:]
			continue
		}
		text, err := p.value("what follows " + word)
		if err != nil {
			return err
		}
		if err := s.clause(word, text); err != nil {
			return err
		}
	}
	return nil
}

func (s *statement) clause(word, text string) (err error) {
	switch word {
	case "FOR":
		s.length, err = parseLength(text)
	case "UNTIL":
		s.until, err = parseTime(text)
	case "REASON":
		s.reason = text
	case "UNDER":
		s.flow = text
	case "AS":
		s.access = policy.LevelName(text)
	}
	return err
}

var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "second": time.Second, "m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hour": time.Hour, "d": 24 * time.Hour, "day": 24 * time.Hour,
}

// parseLength reads '2 hours', '1 hour 30 minutes', '90 min', '2h' and '1h30m'.
func parseLength(text string) (time.Duration, error) {
	bad := &Error{Code: pgerrcode.InvalidParameterValue, Message: "want a length of time such as '2 hours' or '90 minutes', got " + strconv.Quote(shorten(text))}
	if d, err := time.ParseDuration(text); err == nil {
		if d <= 0 {
			return 0, &Error{Code: pgerrcode.InvalidParameterValue, Message: "a length of time must be more than nothing"}
		}
		return d, nil
	}
	words := strings.Fields(strings.ToLower(text))
	if len(words) == 0 || len(words)%2 != 0 || len(words) > 8 {
		return 0, bad
	}
	var total time.Duration
	for i := 0; i < len(words); i += 2 {
		n, err := strconv.ParseInt(words[i], 10, 32)
		unit, ok := units[words[i+1]]
		if !ok {
			unit, ok = units[strings.TrimSuffix(words[i+1], "s")]
		}
		if err != nil || !ok || n < 0 || time.Duration(n) > 10_000*24*time.Hour/unit {
			return 0, bad
		}
		total += time.Duration(n) * unit
	}
	if total <= 0 {
		return 0, &Error{Code: pgerrcode.InvalidParameterValue, Message: "a length of time must be more than nothing"}
	}
	return total, nil
}

func parseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04Z07:00", "2006-01-02 15:04:05 UTC", "2006-01-02 15:04 UTC", "2006-01-02 15:04:05", "2006-01-02 15:04"} {
		if t, err := time.Parse(layout, text); err == nil && t.Year() > 2000 && t.Year() < 10_000 {
			return t.UTC(), nil
		}
	}
	return time.Time{}, &Error{Code: pgerrcode.InvalidParameterValue, Message: "want a time such as '2026-11-25 18:00' (UTC) or '2026-11-25T18:00:00+01:00', got " + strconv.Quote(shorten(text))}
}

func shorten(text string) string {
	const longest = 80
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}
