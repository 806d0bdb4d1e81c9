package preflight

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/roles/ledger"
)

//go:embed sql/database.sql
var databaseSQL string

// Status is how a check ended.
type Status string

// The statuses. A fail keeps grants from working or from ending as they should; a warn is what the database's own set-up
// lets a tenant do besides.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Check is one line of a preflight.
type Check struct {
	Name     string   `json:"name"`
	Database string   `json:"database,omitempty"` // where the SQL is to be run; "" for any
	Status   Status   `json:"status"`
	Detail   string   `json:"detail"`
	SQL      []string `json:"sql,omitempty"` // what mends it
}

// Server is the one that is looked at.
type Server struct {
	Pool        *admin.Pool
	Integration string
	Address     string // for people
	Database    string // the integration's default database
	Readers     int    // that the integration has
}

// look collects checks over one connection.
type look struct {
	c       *admin.Conn
	readers int
	checks  []Check
}

func (p *look) add(name string, status Status, detail string, sql ...string) {
	p.checks = append(p.checks, Check{Name: name, Status: status, Detail: detail, SQL: sql})
}

// Checks looks at what the admin can and cannot do on this server and what the databases' own set-up would let a tenant
// do. It changes nothing. databases are those that grants name.
func (s Server) Checks(ctx context.Context, databases []string) []Check {
	p := &look{readers: s.Readers}
	err := s.Pool.Use(ctx, func(c *admin.Conn) error {
		p.c = c
		p.add("connection", OK, fmt.Sprintf("%s as %s, acting as %s", s.Address, c.Login, c.Acting))
		return p.server(ctx)
	})
	if err != nil {
		p.add("connection", Fail, err.Error())
		return p.checks
	}
	for _, database := range slices.Compact(slices.Sorted(slices.Values(append([]string{s.Database}, databases...)))) {
		err := s.Pool.In(ctx, database, func(c *admin.Conn) error {
			p.c = c
			return p.database(ctx, database)
		})
		if err != nil {
			p.checks = append(p.checks, Check{Name: "database", Database: database, Status: Fail, Detail: err.Error()})
		}
	}
	return p.checks
}

// serverFacts are those of one query.
type serverFacts struct {
	Version                                   string
	Recovery                                  bool
	Super, CreateRole, SignalBackend, Replica bool
	Prepared                                  int
	LogStatement, RestrictPasswords           string
	Profiles, Tombstones                      int
}

const serverFactsSQL = `
	SELECT current_setting('server_version'), pg_is_in_recovery(), r.rolsuper, r.rolcreaterole,
	       pg_has_role(current_user, 'pg_signal_backend', 'USAGE'), EXISTS (SELECT FROM pg_stat_get_wal_senders() s WHERE s.pid IS NOT NULL),
	       current_setting('max_prepared_transactions')::int, current_setting('log_statement'),
	       coalesce(current_setting('rds.restrict_password_commands', true), ''),
	       (SELECT count(*) FROM pg_roles WHERE rolname ~ $1 AND (rolcanlogin OR rolcreaterole OR rolcreatedb OR rolsuper))::int,
	       (SELECT count(*) FROM pg_roles WHERE rolname ~ '^hg_' AND NOT rolcanlogin)::int
	  FROM pg_roles r WHERE r.rolname = current_user`

// fixedMinors are the first minor releases in which REASSIGN OWNED needs the right to SET ROLE (CVE-2026-120146).
var fixedMinors = map[int]int{14: 25, 15: 20, 16: 16, 17: 12, 18: 7}

func (p *look) server(ctx context.Context) error {
	rows, err := p.c.Query(ctx, serverFactsSQL, ledger.ProfilePattern)
	if err != nil {
		return err
	}
	f, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[serverFacts])
	if err != nil {
		return err
	}
	p.version(f)
	p.admin(f)
	p.parameters(f)
	if f.Recovery {
		p.add("writer", Fail, "this is a read replica: roles can be made on the writer only; name the writer's endpoint")
	} else {
		p.add("writer", OK, "not a read replica")
	}
	switch {
	case f.Replica && p.readers > 0:
		p.add("replicas", Warn, fmt.Sprintf("the server has replicas: on the %d reader(s) of this integration sessions end with a grant; on any other they do not, so keep people off its endpoint", p.readers))
	case f.Replica:
		p.add("replicas", Warn, "the server has replicas: sessions on them do not end with a grant; keep people off their endpoints, or list them as readers")
	}
	if f.Tombstones > 0 {
		p.add("tombstones", Warn, fmt.Sprintf("%d disabled role(s) of Hourgate wait for others to let go: hourgate roles list", f.Tombstones))
	}
	if f.Profiles > 0 {
		p.add("profiles", Fail, fmt.Sprintf("%d of Hourgate's profile roles can log in or have attributes of their own", f.Profiles),
			`SELECT rolname FROM pg_roles WHERE rolname ~ '`+ledger.ProfilePattern+`' AND (rolcanlogin OR rolcreaterole OR rolcreatedb OR rolsuper);`)
	}
	return nil
}

func (p *look) version(f serverFacts) {
	major, minor := p.c.Version/10000, p.c.Version%10000
	fixed, known := fixedMinors[major]
	switch {
	case major < 13:
		p.add("version", Fail, f.Version+" is older than 13, which is the oldest that is supported")
	case major == 13:
		p.add("version", Warn, f.Version+" gets no fixes any more; a member can hand objects to its profile, which settling takes back")
	case known && minor < fixed:
		p.add("version", Warn, fmt.Sprintf("%s lacks the fix of CVE-2026-120146 (%d.%d): a tenant can hand objects to its profile, which settling takes back", f.Version, major, fixed))
	case major > 18:
		p.add("version", Warn, f.Version+" is newer than what Hourgate was tested with (18)")
	default:
		p.add("version", OK, f.Version)
	}
}

func (p *look) admin(f serverFacts) {
	user := admin.QuoteIdentifier(p.c.Acting)
	if f.Super {
		p.add("superuser", Warn, p.c.Acting+" is a superuser; Hourgate needs none", "ALTER ROLE "+user+" NOSUPERUSER;")
	}
	if !f.CreateRole && !f.Super {
		p.add("createrole", Fail, p.c.Acting+" may not make roles", "ALTER ROLE "+user+" CREATEROLE;")
	} else {
		p.add("createrole", OK, p.c.Acting+" may make roles")
	}
	if !f.SignalBackend && !f.Super {
		p.add("terminate", Warn, "sessions of a role that somebody dropped by hand can't be terminated", "GRANT pg_signal_backend TO "+user+";")
	} else {
		p.add("terminate", OK, p.c.Acting+" may terminate all backends")
	}
	switch {
	case p.c.Creator != "":
		p.add("creator", OK, "roles are made by "+admin.CreatorRole)
	case p.c.Version >= 160000:
		p.add("creator", Warn, "roles are the admin user's own: if the user is replaced, nobody but a superuser can remove them; see hourgate setup-sql")
	}
}

func (p *look) parameters(f serverFacts) {
	if f.Prepared > 0 {
		p.add("max_prepared_transactions", Warn, fmt.Sprintf("is %d: tenants can leave prepared transactions, which settling rolls back", f.Prepared),
			"ALTER SYSTEM SET max_prepared_transactions = 0; -- and restart; on RDS in the parameter group")
	} else {
		p.add("max_prepared_transactions", OK, "is 0")
	}
	if f.LogStatement == "all" || f.LogStatement == "ddl" {
		p.add("log_statement", Warn, "is "+f.LogStatement+": the SCRAM verifiers of ephemeral roles reach the server's log",
			"ALTER ROLE "+admin.QuoteIdentifier(p.c.Login)+" SET log_statement = 'none'; -- as a superuser")
	}
	switch f.RestrictPasswords {
	case "":
		p.add("own passwords", Warn, "a tenant can change its role's password: let only Hourgate reach the server's port; sessions that came another way are found and ended")
	case "on":
		p.add("own passwords", OK, "rds.restrict_password_commands is on")
	default:
		p.add("own passwords", Warn, "rds.restrict_password_commands is off: a tenant can change its role's password; set it to 1 in the parameter group and restart")
	}
}

// databaseFinding is a row of database.sql.
type databaseFinding struct {
	Name, Status, Detail, SQL string
}

func (p *look) database(ctx context.Context, database string) error {
	rows, err := p.c.Query(ctx, databaseSQL, p.c.Acting, p.c.Version >= 160000)
	if err != nil {
		return err
	}
	findings, err := pgx.CollectRows(rows, pgx.RowToStructByPos[databaseFinding])
	if err != nil {
		return err
	}
	for _, f := range findings {
		check := Check{Name: f.Name, Database: database, Status: Status(f.Status), Detail: f.Detail}
		if f.SQL != "" {
			check.SQL = strings.Split(f.SQL, "\n")
		}
		p.checks = append(p.checks, check)
	}
	return nil
}
