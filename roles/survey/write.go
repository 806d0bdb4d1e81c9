package survey

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/verifier"
)

//go:embed sql/move.sql
var moveSQL string

// Admin is the user that is to be made.
type Admin struct {
	Name     string
	Verifier verifier.Verifier // of its password: the password itself is in no SQL and in no server's log
	NewOwner string            // the role that gets the objects of Survey.Movable; required where there are such
}

// SQL is what a DBA runs once, in the database that was surveyed.
func (s *Survey) SQL(a Admin) string {
	w := &writer{modern: s.Version >= 160000}
	w.line("-- The admin of Hourgate on PostgreSQL %d, database %s. To be run once, in that database, by %s.", s.Version/10000, oneLine(s.Database), oneLine(s.DBA))
	w.line("-- Nothing here lets a person in: that is what the policy says. To take it back: docs/operations.md, \"Removing Hourgate\".")
	w.line("BEGIN;\nSET LOCAL standard_conforming_strings = on;\nSET LOCAL search_path = pg_catalog;")
	w.admin(s, a)
	w.owners(s, a)
	w.line("\nCOMMIT;")
	w.hints(s)
	return w.b.String()
}

type writer struct {
	b      strings.Builder
	modern bool // memberships have options
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(&w.b, format+"\n", args...) }

// grant makes a membership. Where memberships have options, set says whether the member may also SET ROLE to it.
func (w *writer) grant(role, member string, set bool) {
	options := ""
	if w.modern {
		options = " WITH INHERIT TRUE, SET " + strings.ToUpper(fmt.Sprint(set))
	}
	w.line("GRANT %s TO %s%s;", role, member, options)
}

func (w *writer) admin(s *Survey, a Admin) {
	name := admin.QuoteIdentifier(a.Name)
	w.line("\n-- The role that makes and removes all others. It stays when the admin's user is replaced.")
	w.line("DO $$ BEGIN\n  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %s) THEN CREATE ROLE %s NOLOGIN CREATEROLE; END IF;\nEND $$;",
		admin.QuoteLiteral(admin.CreatorRole), admin.CreatorRole)
	signal := fmt.Sprintf("GRANT pg_signal_backend TO %s;", admin.CreatorRole)
	if s.CanSignal {
		w.line("%s", signal)
	} else {
		w.line("-- %s may not grant this; somebody who may should run it:\n-- %s", oneLine(s.DBA), signal)
	}
	w.line("\n-- The admin's user, which logs in. What stands for the password is its SCRAM verifier.")
	w.line("CREATE ROLE %s LOGIN NOCREATEROLE PASSWORD %s;", name, admin.QuoteLiteral(a.Verifier.Encode()))
	w.grant(admin.CreatorRole, name, true)
	if s.RestrictsPasswords {
		w.line("GRANT rds_password TO %s;", admin.CreatorRole)
	}
}

func (w *writer) owners(s *Survey, a Admin) {
	if len(s.Owners) > 0 {
		w.line("\n-- Only the owner of an object, and members of the owner, can grant on it.")
	}
	for _, o := range s.Owners {
		if o.Grantable {
			w.grant(admin.QuoteIdentifier(o.Name), admin.CreatorRole, false)
		}
	}
	for _, o := range s.Stuck() {
		w.line("-- %s owns %s, and %s may not grant it. Somebody who may should run:", oneLine(o.Name), oneLine(o.Example), oneLine(s.DBA))
		w.line("-- GRANT %s TO %s%s;", oneLine(admin.QuoteIdentifier(o.Name)), admin.CreatorRole, map[bool]string{true: " WITH INHERIT TRUE, SET FALSE"}[w.modern])
	}
	if movable := s.Movable(); len(movable) > 0 {
		w.move(s, a, movable)
	}
}

// move gives the objects of owners that can't be granted an owner of their own.
func (w *writer) move(s *Survey, a Admin, from []Owner) {
	owner := admin.QuoteIdentifier(a.NewOwner)
	var names []string
	objects := 0
	for _, o := range from {
		names = append(names, admin.QuoteLiteral(o.Name))
		objects += o.Objects
	}
	w.line("\n-- %d object(s), such as %s, belong to a superuser or to %s, and nobody can be made a member of these safely.",
		objects, oneLine(from[0].Example), oneLine(s.DBA))
	w.line("-- They get an owner of their own. %s keeps all rights on them. Have migrations do SET ROLE %s, or ALTER ROLE the\n-- migrating user SET role = %[2]s: what others make belongs to them again, and Hourgate can't grant on it.", oneLine(s.DBA), oneLine(owner))
	// The block reads the names from a table: between dollar quotes a name could end the quote.
	w.line("CREATE TEMPORARY TABLE names ON COMMIT DROP AS SELECT %s::text AS new, ARRAY[%s] AS old;", admin.QuoteLiteral(a.NewOwner), strings.Join(names, ", "))
	w.line("DO $$ BEGIN\n  IF NOT EXISTS (SELECT FROM pg_roles, names WHERE rolname = new) THEN\n    EXECUTE (SELECT format('CREATE ROLE %%I NOLOGIN', new) FROM names);\n  END IF;\nEND $$;")
	if !s.Super {
		w.grant(owner, admin.QuoteIdentifier(s.DBA), true)
	}
	w.grant(owner, admin.CreatorRole, false)
	w.line("%s;", strings.TrimSpace(moveSQL))
}

// hints are statements that are worth running, but only by somebody who knows who else uses the server.
func (w *writer) hints(s *Survey) {
	database := oneLine(admin.QuoteIdentifier(s.Database))
	w.line("\n-- Worth running as well, with care. Everybody who uses the database now needs a GRANT CONNECT of their own first,\n-- or is cut off:")
	w.line("--   GRANT CONNECT ON DATABASE %s TO application;\n--   REVOKE CONNECT, TEMPORARY ON DATABASE %[1]s FROM PUBLIC;", database)
	if s.Version < 150000 {
		w.line("--   REVOKE CREATE ON SCHEMA public FROM PUBLIC;")
	}
}

// oneLine keeps a name within its comment.
func oneLine(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return '?'
		}
		return r
	}, name)
}
