package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/proxy"
)

// secretText is in errors that no client may see.
const secretText = "db-7.internal hg_alice_role s3cr3t"

func refuses(err error) func(context.Context) (proxy.Lease, error) {
	return func(context.Context) (proxy.Lease, error) { return nil, fmt.Errorf("%s: %w", secretText, err) }
}

func pgError(code string) error {
	return &pgconn.PgError{Severity: "FATAL", Code: code, Message: secretText, Detail: secretText, Hint: secretText}
}

// refusalRule is about a connection that becomes no session. SESSION in the hint stands for the session's ID.
type refusalRule struct {
	name     string
	gate     gateOptions
	via      encryption
	user     string // default alice
	password string // default hers
	database string // default orders

	want   *pgproto3.ErrorResponse
	reason string
	event  audit.Event // of the last record
}

const tellOperators = "Tell the operators of this gate: session SESSION."

// Every refusal: what the client is told, what is counted, what is recorded, and that the connection is closed.
func TestRefusals(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	noGrant := "You have no live grant. Ask for one: Hourgate gives access for a limited time only."
	past := time.Now().Add(-time.Hour).Truncate(time.Second).UTC()
	future := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	notYet := strings.Replace(grant("inc-1", 2*time.Hour), "until:", "from: "+future.Format(time.RFC3339)+", until:", 1)
	for _, rule := range []refusalRule{
		{
			name: "plaintext", via: plain, reason: "plaintext", event: audit.SessionRefused,
			want: fatal(pgerrcode.InvalidAuthorizationSpecification, "this gate takes encrypted connections only", "", "Connect with sslmode=verify-full, or at least sslmode=require."),
		},
		{
			name: "wrong password", password: "guess", reason: "authentication", event: audit.SessionRefused,
			want: fatal(pgerrcode.InvalidPassword, `password authentication failed for user "alice@example.com"`, "", ""),
		},
		{
			name: "unknown user", user: "mallory", password: "guess", reason: "authentication", event: audit.SessionRefused,
			want: fatal(pgerrcode.InvalidPassword, `password authentication failed for user "mallory"`, "", ""),
		},
		{
			name: "unknown user who forges lines", user: "a\nb\xff", password: "guess", reason: "authentication", event: audit.SessionRefused,
			want: fatal(pgerrcode.InvalidPassword, `password authentication failed for user "a?b?"`, "", ""),
		},
		{
			name: "the role's own name", user: "hg_alice_inc_1_abc", password: alicePassword, reason: "authentication", event: audit.SessionRefused,
			want: fatal("28P01", `password authentication failed for user "hg_alice_inc_1_abc"`, "", "Roles on the server have no log-in at the gate. Connect with your own user name: it is given a role."),
		},
		{
			name: "no grant", user: bob, password: bobPassword, reason: "no_grant", event: audit.SessionRefused,
			want: fatal(pgerrcode.InvalidAuthorizationSpecification, `no live grant for "orders"`, "", noGrant),
		},
		{
			name: "a grant for another database", database: "orders/other", reason: "no_grant", event: audit.SessionRefused,
			want: fatal(pgerrcode.InvalidAuthorizationSpecification, `no live grant for "orders/other"`, "", "You may connect to: orders (until "+future.Format("2006-01-02 15:04:05 MST")+")."),
			gate: gateOptions{grants: []string{grantAt("inc-1", alice, "READ_WRITE", future)}},
		},
		{
			name: "expired grant", reason: "expired", event: audit.SessionRefused,
			gate: gateOptions{grants: []string{grantAt("inc-1", alice, "READ_WRITE", past)}},
			want: fatal(pgerrcode.InvalidAuthorizationSpecification, `no live grant for "orders"`, fmt.Sprintf("Grant inc-1 on orders (database %s) ended at %s.", db.Name, past.Format("2006-01-02 15:04:05 MST")), noGrant),
		},
		{
			name: "a grant that has not begun", reason: "not_yet", event: audit.SessionRefused,
			gate: gateOptions{grants: []string{notYet}},
			want: fatal(pgerrcode.InvalidAuthorizationSpecification, `no live grant for "orders"`, fmt.Sprintf("Grant inc-1 on orders (database %s) starts at %s.", db.Name, future.Format("2006-01-02 15:04:05 MST")), noGrant),
		},
		{
			name: "a server that can't be reached", reason: "unreachable", event: audit.SessionEnd,
			gate: gateOptions{acquire: refuses(&upstream.DialError{Address: secretText, Err: errors.New(secretText)})},
			want: fatal(pgerrcode.SQLClientUnableToEstablishSQLConnection, `the database server of "orders" can't be reached`, "", tellOperators),
		},
		{
			name: "a server that does not answer", reason: "unreachable", event: audit.SessionEnd,
			gate: gateOptions{acquire: refuses(context.DeadlineExceeded)},
			want: fatal(pgerrcode.SQLClientUnableToEstablishSQLConnection, `the database server of "orders" did not answer in time`, "", tellOperators),
		},
		{
			name: "a full server", reason: "server_full", event: audit.SessionEnd,
			gate: gateOptions{acquire: refuses(pgError(pgerrcode.TooManyConnections))},
			want: fatal(pgerrcode.TooManyConnections, `the database server of "orders" has no free connection`, "", "Close connections that you don't need, or try again in a moment."),
		},
		{
			name: "a server that starts", reason: "unreachable", event: audit.SessionEnd,
			gate: gateOptions{acquire: refuses(pgError(pgerrcode.CannotConnectNow))},
			want: fatal(pgerrcode.CannotConnectNow, `the database server of "orders" is starting up or shutting down`, "", "Try again in a moment."),
		},
		{
			name: "an admin who may not", reason: "provision", event: audit.SessionEnd,
			gate: gateOptions{acquire: refuses(pgError(pgerrcode.InsufficientPrivilege))},
			want: fatal(pgerrcode.SystemError, `access to "orders" could not be prepared`, "", tellOperators),
		},
		{
			name: "an admin whose settings are refused", reason: "provision", event: audit.SessionEnd,
			gate: gateOptions{acquire: refuses(pgError(pgerrcode.InvalidParameterValue))},
			want: fatal(pgerrcode.SystemError, `access to "orders" could not be prepared`, "", tellOperators),
		},
		{
			name: "trouble of any other kind", reason: "provision", event: audit.SessionEnd,
			gate: gateOptions{acquire: refuses(errors.New("boom"))},
			want: fatal(pgerrcode.SystemError, `access to "orders" could not be prepared`, "", tellOperators),
		},
		{
			name: "too many sessions", reason: "session_limit", event: audit.SessionEnd,
			gate: gateOptions{acquire: refuses(proxy.ErrSessionLimit)},
			want: fatal(pgerrcode.TooManyConnections, "you have too many connections open under grant inc-1", "", "Close connections that you don't need."),
		},
		{
			name: "time to log in over", reason: "timeout", event: audit.SessionEnd,
			gate: gateOptions{
				acquire: func(ctx context.Context) (proxy.Lease, error) { <-ctx.Done(); return nil, ctx.Err() },
				change:  func(c *proxy.Config) { c.LoginTimeout = promptly },
			},
			want: fatal(pgerrcode.ProtocolViolation, "the connection was not set up in time", "", ""),
		},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, db, rule.gate)
			got, sent := g.refused(rule)
			g.expectRefusal(rule, got)
			for word := range strings.FieldsSeq(secretText) {
				if bytes.Contains(sent, []byte(word)) {
					t.Errorf("the client was sent %q", word)
				}
			}
		})
	}
}

// refused connects as the rule says and returns the last message and all that was sent.
func (g *gate) refused(rule refusalRule) (*pgproto3.ErrorResponse, []byte) {
	g.t.Helper()
	to := g.target()
	or := func(a, b string) string {
		if a == "" {
			return b
		}
		return a
	}
	to.user, to.password = or(rule.user, alice), or(rule.password, alicePassword)
	p := dial(g.t, to, rule.via)
	p.send(startup(v30, "user", to.user, "database", or(rule.database, "orders"), "application_name", "app"))
	messages, err := p.authenticate()
	if err == nil || isTimeout(err) || len(messages) == 0 {
		g.t.Fatalf("got %v, %v; want a refusal and the end of the connection", messages, err)
	}
	var sent []byte
	for _, m := range messages {
		sent = append(sent, m.body...)
	}
	return messages[len(messages)-1].error(g.t), sent
}

func (g *gate) expectRefusal(rule refusalRule, got *pgproto3.ErrorResponse) {
	g.t.Helper()
	if rule.event == audit.SessionEnd { // is recorded after the client has been told
		eventually.True(g.t, "the end is recorded", func() bool { return len(g.trail.of(audit.SessionEnd)) > 0 })
	}
	records := g.trail.all()
	if len(records) == 0 {
		g.t.Fatal("nothing in the trail")
	}
	last := records[len(records)-1]
	want := *rule.want
	want.Hint = strings.ReplaceAll(want.Hint, "SESSION", last.Session)
	if diff := cmp.Diff(&want, got); diff != "" {
		g.t.Errorf("last message (-want +got):\n%s", diff)
	}
	if n := g.metric("hourgate_connections_refused_total", "reason", rule.reason); n != 1 {
		g.t.Errorf("%v refusals counted as %s, want 1", n, rule.reason)
	}
	if n := g.metric("hourgate_connections_refused_total"); n != 1 {
		g.t.Errorf("%v refusals counted, want 1", n)
	}
	user := rule.user
	if user == "" && (rule.via == negotiated || rule.via == plain) {
		user = alice // as the StartupMessage claims
	}
	user = strings.Trim(strconv.Quote(user), `"`) // as the trail shows what strangers claim
	if last.Event != rule.event || last.Cause != rule.reason || last.Code != rule.want.Code || last.User != user || last.RemoteAddr == "" {
		g.t.Errorf("recorded %+v, want %s of %q with reason %s and code %s", last, rule.event, user, rule.reason, rule.want.Code)
	}
	if rule.event == audit.SessionEnd && (len(records) != 2 || records[0].Event != audit.SessionStart) {
		g.t.Errorf("%d records, want the session's start and its end", len(records))
	}
}

// What the server refuses at log-in: a role that is gone, and one that may not.
func TestRule08ErrorsOfTheServerAtLogIn(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for _, rule := range []struct {
		name      string
		login     upstream.Login
		discarded int
	}{
		{"wrong password", upstream.Login{User: db.Owner, Password: secretText, Database: db.Name}, 1},
		{"no such role", upstream.Login{User: "hg_alice_role", Password: "x", Database: db.Name}, 1},
		{"no such database", upstream.Login{User: db.Owner, Password: db.OwnerPassword, Database: "db-7.internal"}, 0},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			var l leases
			g := startGate(t, db, gateOptions{acquire: func(context.Context) (proxy.Lease, error) { return l.take(rule.login), nil }})
			r := refusalRule{reason: "provision", event: audit.SessionEnd, want: fatal(pgerrcode.SystemError, `access to "orders" could not be prepared`, "", tellOperators)}
			got, sent := g.refused(r)
			g.expectRefusal(r, got)
			for word := range strings.FieldsSeq(secretText) {
				if bytes.Contains(sent, []byte(word)) {
					t.Errorf("the client was sent %q", word)
				}
			}
			eventually.True(t, "the lease is given back", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.released+l.discarded == 1 })
			if l.discarded != rule.discarded {
				t.Errorf("%d leases discarded, want %d", l.discarded, rule.discarded)
			}
		})
	}
}

// brokenTrail takes no records.
type brokenTrail struct{}

func (brokenTrail) Append(audit.Record) error { return errors.New(secretText) }

func (brokenTrail) Result(*audit.Result) bool { return false }

func (brokenTrail) Statement(context.Context, *audit.Statement) error {
	return errors.New(secretText)
}

// If the trail can't be written, no role is made.
func TestNoSessionWithoutTrail(t *testing.T) {
	t.Parallel()
	acquired := false
	g := startGate(t, database(t, 18), gateOptions{
		trail:   brokenTrail{},
		acquire: func(context.Context) (proxy.Lease, error) { acquired = true; return nil, errors.New("unexpected") },
	})
	p := dial(t, g.target(), negotiated)
	p.send(like(v30).bytes(g.target()))
	messages, _ := p.authenticate()
	want := fatal(pgerrcode.SystemError, "this session can't be recorded, so it can't begin", "", "Tell the operators of this gate; nothing is wrong at your end.")
	if diff := cmp.Diff(want, messages[len(messages)-1].error(t)); diff != "" {
		t.Error(diff)
	}
	if acquired {
		t.Error("a role was acquired")
	}
	eventually.True(t, "the errors are counted", func() bool { return g.metric("hourgate_trail_errors_total") >= 1 })
}

// An ADMIN is told that what they create goes with the grant. No level makes the server look like a standby, which drivers
// that look for a primary would pass by.
func TestAccessLevels(t *testing.T) {
	t.Parallel()
	db := database(t, 18)
	for level, wantNotice := range map[string]bool{"READ_ONLY": false, "READ_WRITE": false, "ADMIN": true} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, db, gateOptions{grants: []string{grantAt("inc-1", alice, level, time.Now().Add(time.Hour))}})
			p := dial(t, g.target(), negotiated)
			notice := false
			for _, m := range p.login(like(v30).bytes(g.target())) {
				notice = notice || m.kind == 'N'
			}
			if notice != wantNotice {
				t.Errorf("a notice: %v, want %v", notice, wantNotice)
			}
			p.send(query("SHOW transaction_read_only"))
			p.expect('T')
			if got := string(p.expect('D').body[6:]); got != "off" {
				t.Errorf("transaction_read_only is %s, want off", got)
			}
		})
	}
}
