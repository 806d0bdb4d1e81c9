package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/audit"
)

const (
	// demoEndLimit is how late after the grant's end a session may be put out.
	demoEndLimit = time.Second
	// demoSettleLimit is how late after the grant's end the role may be gone.
	demoSettleLimit = 5 * time.Second
)

// lacks returns an error with the problem unless text contains all that is wanted.
func lacks(text, problem string, wanted ...string) error {
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			return fmt.Errorf("%s: psql's output lacks %q", problem, want)
		}
	}
	return nil
}

func (d *demo) showRole(ctx context.Context) error {
	d.out.step("Alice connects, and PostgreSQL knows her as a role that was made for her")
	got, err := d.psql(ctx, demoCall{user: demoAlice, options: "-x", statements: []string{
		`SELECT session_user, roleid::regrole AS member_of, rolsuper AS superuser,
             rolvaliduntil AS valid_until, rolconnlimit AS connection_limit
        FROM pg_roles r JOIN pg_auth_members m ON m.member = r.oid
       WHERE rolname = session_user`,
	}})
	if err != nil {
		return err
	}
	end := d.until.UTC().Format("2006-01-02 15:04:05+00")
	if err := lacks(got.text.String(), "Alice has no role of her own", "| hg_alice_", "| hourgate_r", "| f\n", "| "+end); err != nil {
		return err
	}
	if d.role, err = d.roleMade(); err != nil {
		return err
	}
	if err := lacks(got.text.String(), "the trail names another role", "| "+d.role.name+"\n"); err != nil {
		return err
	}
	d.out.sure("a role of her own, with the rights of one profile, valid no longer than the grant")
	return nil
}

func (d *demo) showRows(ctx context.Context) error {
	d.out.step("She looks into INC-4211: customers say that they were charged twice")
	got, err := d.psql(ctx, demoCall{user: demoAlice, statements: []string{
		`SELECT o.id, c.name, c.city, o.total, count(*) AS payments, sum(p.amount) AS paid
        FROM orders o JOIN customers c ON c.id = customer_id JOIN payments p ON order_id = o.id
       GROUP BY o.id, c.id HAVING sum(p.amount) > o.total ORDER BY o.id`,
	}})
	if err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Alice can't read", " 1009 |", " 1017 |", " 1031 |", "(3 rows)"); err != nil {
		return err
	}
	d.out.sure("three orders, straight from the server")
	return nil
}

func (d *demo) showRefusedWrite(ctx context.Context) error {
	d.out.step("She tries to mend one, and may not: her grant is to read")
	got, err := d.psql(ctx, demoCall{user: demoAlice, statements: []string{
		"BEGIN READ WRITE", "UPDATE orders SET status = 'refunded' WHERE id = 1009",
	}})
	if err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Alice's UPDATE was not refused", "ERROR:  permission denied for table orders"); err != nil {
		return err
	}
	d.out.sure("refused by PostgreSQL's own privileges, although she asked for READ WRITE")
	return nil
}

func (d *demo) showRefusedPerson(ctx context.Context) error {
	d.out.step("Bob has no grant any more: his password is right, and he is told why he stays outside")
	got, err := d.psql(ctx, demoCall{user: demoBob, statements: []string{"SELECT 1"}})
	if err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Bob was not told why he is refused", "FATAL:  no live grant", "DETAIL:  ", "HINT:  "); err != nil {
		return err
	}
	records, err := d.records()
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.User == demoBob && r.Event != audit.SessionRefused {
			return fmt.Errorf("the trail has a %s of Bob's, who was refused", r.Event)
		}
	}
	d.out.sure("refused before anything was made on the server")
	return nil
}

func (d *demo) showEnd(ctx context.Context) error {
	left := time.Until(d.until)
	if left < time.Second {
		return errors.New("this machine is so slow that the grant ended before its end could be shown")
	}
	d.out.step(fmt.Sprintf("Alice keeps an eye on the open orders, and her grant ends at %s", clockTime(d.until)))
	got, err := d.psql(ctx, demoCall{
		user: demoAlice, options: "-qAt", timeout: left + demoEndLimit + time.Second,
		input: `SELECT to_char(clock_timestamp(), 'HH24:MI:SS.MS'), count(*), 'open'
       FROM orders, pg_sleep(1) WHERE status = 'open' \watch 0.01`,
	})
	late := got.fatalAt.Sub(d.until)
	switch {
	case ctx.Err() != nil:
		return err
	case got.fatalAt.IsZero():
		return errors.Join(errors.New("the session was not ended with the grant"), err)
	case late < 0 || late > demoEndLimit:
		return fmt.Errorf("the session was ended %v after the grant", late)
	}
	if err := lacks(got.text.String(), "Alice was not told why", "FATAL:  terminating connection: your grant has ended", "HINT:  "); err != nil {
		return err
	}
	d.out.sure("put out, and told why, %s after the grant's end", inWords(max(late, time.Millisecond)))
	return err
}

// demoTracesSQL counts what refers to a role by its OID, which no later role will have.
const demoTracesSQL = `SELECT (SELECT count(*) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
                  AND refobjid = %[1]d) AS owned_or_granted,
             (SELECT count(*) FROM pg_stat_activity WHERE usesysid = %[1]d) AS sessions`

// noTraces matches the row of demoTracesSQL that it should be.
var noTraces = regexp.MustCompile(`(?m)^ +0 \| +0$`)

// showNothingLeft looks as the database's owner, who does not depend on the gate.
func (d *demo) showNothingLeft(ctx context.Context) error {
	d.out.step("The database's owner looks at the server itself: what is left of Alice's role?")
	var err error
	d.gone, err = d.awaitSettled(ctx)
	if err != nil {
		return err
	}
	d.out.command(demoVariable("server", d.serverAddress()))
	got, err := d.psql(ctx, demoCall{user: demoOwner, direct: true, statements: []string{
		`SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1`,
		fmt.Sprintf(demoTracesSQL, d.role.oid),
	}})
	if err != nil {
		return err
	}
	text := got.text.String()
	if strings.Contains(text, " hg_") {
		return errors.New("a role is left on the server")
	}
	if err := lacks(text, "the owner could not look", " "+demoOwner+" ", " "+demoAdmin+" "); err != nil {
		return err
	}
	if !noTraces.MatchString(text) {
		return errors.New("something of the role is left on the server")
	}
	d.out.sure("the role was gone %s after the grant's end; the profile stays: nobody can log in as it", inWords(d.gone))
	return nil
}

// awaitSettled waits until no ephemeral role is on the server, and says how long after the grant's end that was.
func (d *demo) awaitSettled(ctx context.Context) (time.Duration, error) {
	conn, err := d.server.Connect(ctx, demoDatabase)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var roles []string
		rows, _ := conn.Query(ctx, `SELECT rolname FROM pg_roles WHERE rolname LIKE 'hg\_%'`) // CollectRows has the error
		roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
		late := time.Since(d.until)
		switch {
		case err != nil:
			return 0, err
		case len(roles) == 0:
			return late, nil
		case late > demoSettleLimit:
			return 0, fmt.Errorf("%v after the grant's end the server still has %s", demoSettleLimit, strings.Join(roles, ", "))
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// demoEvents are the records that the story must have left.
var (
	demoEvents    = []audit.Event{audit.SessionStart, audit.RoleMade, audit.SessionStatement, audit.SessionEnd, audit.SessionRefused}
	demoEndEvents = append(slices.Clone(demoEvents), audit.RoleSettled)
)

func (d *demo) showTrail() error {
	d.out.step("The trail has all of it: trail.jsonl, a line a record, each chained to the one before")
	records, err := d.records()
	if err != nil {
		return err
	}
	seen := make(map[audit.Event]bool)
	ended := false
	for _, r := range records {
		d.out.printed(trailLine(r))
		seen[r.Event] = true
		ended = ended || r.Event == audit.SessionEnd && r.Cause == "grant_expired"
	}
	wanted := demoEndEvents
	if d.keep {
		wanted, ended = demoEvents, true
	}
	for _, event := range wanted {
		if !seen[event] {
			return fmt.Errorf("the trail lacks a record of %s", event)
		}
	}
	if !ended {
		return errors.New("the trail does not say that a session ended with its grant")
	}
	d.out.sure("%d records, and the chain is whole", len(records))
	return nil
}

// records are those of the trail, whose chain is checked.
func (d *demo) records() ([]audit.Record, error) {
	file, err := os.Open(d.file("trail.jsonl"))
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	var records []audit.Record
	for r, err := range audit.All(file) {
		if err != nil {
			return nil, fmt.Errorf("trail: %w", err)
		}
		records = append(records, r)
	}
	return records, nil
}

// roleMade is the last role in the trail.
func (d *demo) roleMade() (role demoRole, err error) {
	records, err := d.records()
	if err != nil {
		return role, err
	}
	for _, r := range records {
		if r.Event == audit.RoleMade {
			role = demoRole{name: r.Role, oid: r.RoleOID}
		}
	}
	if role.oid == 0 {
		return role, errors.New("the trail has no record of a role")
	}
	return role, nil
}

// trailLine shortens a record.
func trailLine(r audit.Record) string {
	what := ""
	switch r.Event {
	case audit.SessionStart:
		what = fmt.Sprintf("%s, grant %s (%s, %s)", r.User, r.Grant, r.Access, r.Reason)
		if r.Grant == "" {
			what = fmt.Sprintf("%s, database %s", r.User, r.Database)
		}
	case audit.SessionRefused:
		what = fmt.Sprintf("%s, %s", r.User, r.Cause)
	case audit.SessionEnd:
		what = fmt.Sprintf("%s, %s, after %s", r.User, r.Cause, inWords(time.Duration(r.Duration*float64(time.Second))))
	case audit.SessionStatement:
		what = strings.Join(strings.Fields(r.Statement), " ")
	case audit.RequestFiled, audit.RequestApproved, audit.RequestActive, audit.RequestExtended, audit.RequestEnded:
		what = strings.TrimPrefix(fmt.Sprintf("%s, %s of %s", r.User, r.Grant, r.Detail["requestor"]), ", ")
	case audit.RoleMade:
		what = fmt.Sprintf("%s, until %s", r.Role, clockTime(r.Until))
	case audit.RoleSettled:
		what = r.Role + ", dropped"
	}
	return strings.TrimRight(fmt.Sprintf("%s  %-16s  %s", r.Time.UTC().Format("15:04:05.000"), r.Event, what), " ")
}
