// Package desk is where people ask for access, decide, and see what they have, in statements: what database "hourgate"
// takes. It has no rules of its own, and speaks no protocol: statements are text, and answers are rows of text.
package desk

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/policy"
)

// Desk answers statements. Its methods may be called from any goroutine.
type Desk struct {
	service  *access.Service
	live     *policy.Live
	sessions Sessions
	clock    func() time.Time
}

// Sessions are those of this gate.
type Sessions interface {
	Sessions() []Session
	// Kill ends a session, whose client is told whether an operator did it. It reports whether there is one.
	Kill(id string, byOperator bool) bool
}

// A Session is one connection of a client.
type Session struct {
	ID, User, Grant, Access, Integration, Database, Client, Application, State string
	Since, Until                                                               time.Time
}

// New returns a desk.
func New(service *access.Service, live *policy.Live, sessions Sessions) *Desk {
	return &Desk{service: service, live: live, sessions: sessions, clock: time.Now}
}

// Result is what a statement gives: rows of its columns, in which nil is NULL.
type Result struct{ Rows [][]*string }

// Describe says how many parameters a statement has and which columns it gives. The error is an *Error.
func (d *Desk) Describe(sql string) (parameters int, columns []string, err error) {
	if _, columns, ok := d.courtesy(sql, ""); ok {
		return 0, columns, nil
	}
	f, _, parameters, err := parse(sql, nil)
	if err != nil {
		return 0, nil, err
	}
	return parameters, f.columns, nil
}

// Run does what a statement says, for a person. notice tells them something while it goes on. The error is an *Error, or
// ctx's.
func (d *Desk) Run(ctx context.Context, who access.Actor, sql string, args []*string, notice func(string)) (Result, error) {
	if result, _, ok := d.courtesy(sql, who.Name); ok {
		return result, nil
	}
	_, s, _, err := parse(sql, append([]*string{}, args...))
	if err != nil {
		return Result{}, err
	}
	if who.Operator && slices.Contains(personal, s.verb) {
		return Result{}, &Error{
			Code: pgerrcode.InsufficientPrivilege, Message: "the admin socket is nobody who could ask or decide",
			Hint: "Log in as yourself for that. END ends a request or access, whoever's it is.",
		}
	}
	who.Operator = who.Operator || d.live.Set().Operator(who.Name)
	if err := d.Admit(who); err != nil {
		return Result{}, err
	}
	result, err := d.run(ctx, who, s, notice)
	if err != nil && ctx.Err() != nil {
		return result, ctx.Err() // nobody waits for the answer
	}
	return result, told(err)
}

// personal are the verbs that take a person who has logged in, whom policies can name. What the admin socket is called
// must not make it somebody of that name.
var personal = []string{"REQUEST", "BREAK GLASS", "APPROVE", "DENY", "EXTEND", "REVIEW"}

// Admit says why a person may not use the desk: they, or everybody but operators, are locked out.
func (d *Desk) Admit(who access.Actor) error {
	set := d.live.Set()
	l, locked := set.Locked(who.Name, "", "", d.clock())
	if !locked || l.Kind == policy.LockAll && (who.Operator || set.Operator(who.Name)) {
		return nil
	}
	return &Error{Code: pgerrcode.InvalidAuthorizationSpecification, Message: l.String() + " is locked", Detail: l.Reason}
}

// told makes what a person is told of an error that is meant for them.
func told(err error) error {
	var why *access.Refused
	if errors.As(err, &why) {
		return &Error{Message: why.Message, Detail: why.Detail, Hint: why.Hint}
	}
	return err
}

func (d *Desk) run(ctx context.Context, who access.Actor, s statement, notice func(string)) (Result, error) {
	switch s.verb {
	case "HELP", "SHOW HELP":
		return help(), nil
	case "SHOW ACCESS":
		return d.showAccess(who), nil
	case "SHOW REQUESTS":
		return d.showRequests(ctx, who)
	case "SHOW SESSIONS":
		return d.showSessions(who), nil
	case "SHOW GRANTS":
		return d.showGrants(who)
	case "SHOW LOCKS":
		return d.showLocks(who)
	case "REQUEST", "BREAK GLASS":
		return d.ask(ctx, who, s)
	case "KILL":
		return d.kill(who, s.words[0])
	case "LOCK":
		return d.lock(ctx, who, s)
	case "UNLOCK":
		return d.unlock(ctx, who, s)
	}
	r, err := d.change(ctx, who, s, notice)
	if err != nil {
		return Result{}, err
	}
	return d.rows(who, r), nil
}

// change is a statement about one request.
func (d *Desk) change(ctx context.Context, who access.Actor, s statement, notice func(string)) (*access.Request, error) {
	switch s.verb {
	case "SHOW REQUEST":
		return d.service.Request(ctx, who, s.id)
	case "WAIT":
		return d.wait(ctx, who, s, notice)
	case "APPROVE":
		return d.service.Decide(ctx, who.Name, s.id, access.Verdict{Approve: true, For: s.length, Access: s.access, Reason: s.reason})
	case "DENY":
		return d.service.Decide(ctx, who.Name, s.id, access.Verdict{Reason: s.reason})
	case "EXTEND":
		if s.length == 0 {
			return nil, &Error{Code: pgerrcode.SyntaxError, Message: "FOR is missing: how much more time", Hint: "Such as EXTEND 17 FOR '1 hour';"}
		}
		return d.service.Extend(ctx, who.Name, s.id, s.length, s.reason)
	case "REVIEW":
		return d.service.Review(ctx, who.Name, s.id, s.reason)
	default: // END, REVOKE
		return d.service.Stop(ctx, who, s.id, s.reason)
	}
}

// ask files a request.
func (d *Desk) ask(ctx context.Context, who access.Actor, s statement) (Result, error) {
	w := policy.Wish{User: who.Name, Flow: s.flow, Access: s.access, For: s.length, Reason: s.reason, BreakGlass: s.verb == "BREAK GLASS"}
	for _, target := range s.targets {
		if asked := d.live.Set().Asked(who.Name, target); strings.Contains(target, "@") && asked.Target != "" {
			target = asked.Target // database@integration, as refusals of log-ins name it
		}
		integration, database, named := strings.Cut(target, "/")
		switch {
		case w.Integration != "" && w.Integration != integration:
			return Result{}, &Error{Code: pgerrcode.SyntaxError, Message: "one request is for one integration", Hint: "Make a request for each."}
		case named && database == "":
			return Result{}, &Error{Code: pgerrcode.SyntaxError, Message: "a database is missing after the /"}
		}
		w.Integration = integration
		if named {
			w.Databases = append(w.Databases, database)
		}
	}
	if len(w.Databases) > 0 && len(w.Databases) < len(s.targets) {
		return Result{}, &Error{Code: pgerrcode.SyntaxError, Message: "name the database of each", Hint: "Such as orders-prod/orders, orders-prod/analytics."}
	}
	r, _, err := d.service.Ask(ctx, w)
	if err != nil {
		return Result{}, err
	}
	return d.rows(who, r), nil
}

// defaultWait is how long WAIT waits that does not say; longestWait bounds what it says.
const (
	defaultWait = 5 * time.Minute
	longestWait = 24 * time.Hour
)

func (d *Desk) wait(ctx context.Context, who access.Actor, s statement, notice func(string)) (*access.Request, error) {
	length := defaultWait
	if s.length > 0 {
		length = min(s.length, longestWait)
	}
	r, err := d.service.Request(ctx, who, s.id)
	if err != nil {
		return nil, err
	}
	notice(d.note(who, r))
	waiting, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	r, err = d.service.Await(waiting, who, s.id)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return r, nil // its state says that it waits still
	}
	return r, err
}

func (d *Desk) kill(who access.Actor, id string) (Result, error) {
	for _, s := range d.sessions.Sessions() {
		if s.ID == id && (who.Operator || s.User == who.Name) {
			d.service.Killing(who, id, s.User)
			if d.sessions.Kill(id, s.User != who.Name) {
				return done("session " + id + " is ending"), nil
			}
		}
	}
	return Result{}, &Error{Code: pgerrcode.UndefinedObject, Message: "there is no such session on this gate", Hint: "SHOW SESSIONS; lists them."}
}

func (d *Desk) lock(ctx context.Context, who access.Actor, s statement) (Result, error) {
	l := policy.Lock{Kind: policy.LockKind(s.words[0]), Name: s.words[1], Reason: s.reason, Until: s.until}
	if s.length > 0 {
		l.Until = d.clock().UTC().Add(s.length)
	}
	everywhere, err := d.service.Lock(ctx, who, l)
	if err != nil {
		return Result{}, err
	}
	if !everywhere {
		return done(l.String() + " is locked, on this gate"), nil
	}
	return done(l.String() + " is locked, on all gates"), nil
}

func (d *Desk) unlock(ctx context.Context, who access.Actor, s statement) (Result, error) {
	l := policy.Lock{Kind: policy.LockKind(s.words[0]), Name: s.words[1]}
	if err := d.service.Unlock(ctx, who, l.Kind, l.Name); err != nil {
		return Result{}, err
	}
	return done(l.String() + " is not locked any more"), nil
}

func done(text string) Result { return Result{Rows: [][]*string{{&text}}} }

// courtesies are what drivers and people send to see whether somebody is there.
var courtesies = map[string]string{
	"select 1": "1", "select version()": "Hourgate: statements about access only, see HELP", "select current_database()": "hourgate",
	"select current_schema()": "public", "select current_user": "", "select session_user": "", "select user": "",
	"select current_catalog": "hourgate", "select pg_catalog.version()": "Hourgate: statements about access only, see HELP",
}

// courtesy answers such a statement.
func (d *Desk) courtesy(sql, user string) (Result, []string, bool) {
	const longest = 40
	if len(sql) > longest {
		return Result{}, nil, false
	}
	words := strings.ToLower(strings.Join(strings.Fields(strings.TrimRight(sql, "; \t\n\r")), " "))
	answer, ok := courtesies[words]
	if !ok {
		return Result{}, nil, false
	}
	if answer == "" {
		answer = user
	}
	name := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(words, "select "), "pg_catalog."), "()")
	if name == "1" {
		name = "?column?"
	}
	return done(answer), []string{name}, true
}
