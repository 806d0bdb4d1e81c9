package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// beyond are roles that reach past the databases of a grant: to the server's files and programs, to other people's
// sessions, to replication, or to everything. They need dangerous: true. Other roles whose names start with pg_ or rds
// are treated alike, because new ones come with each version.
var beyond = map[string]string{
	"pg_execute_server_program":   "runs programs on the server",
	"pg_read_server_files":        "reads the server's files",
	"pg_write_server_files":       "writes the server's files",
	"pg_signal_backend":           "ends other people's sessions, Hourgate's too",
	"pg_monitor":                  "sees other people's statements",
	"pg_read_all_settings":        "sees settings that are hidden",
	"pg_read_all_stats":           "sees other people's statements",
	"pg_stat_scan_tables":         "locks any table",
	"pg_checkpoint":               "makes checkpoints",
	"pg_maintain":                 "locks any table",
	"pg_create_subscription":      "makes connections that outlive the grant",
	"pg_use_reserved_connections": "takes the slots that are kept for emergencies",
	"pg_signal_autovacuum_worker": "stops autovacuum",
	"pg_read_all_data":            "reads all databases",
	"pg_write_all_data":           "writes to all databases",
	"pg_database_owner":           "owns the database",
	"rds_superuser":               "is the superuser of Amazon RDS",
	"rds_replication":             "makes replication slots, which outlive the grant",
	"rds_password":                "changes passwords",
	"rds_iam":                     "logs in without a password",
}

func (c *checker) checkAccess(doc *strictyaml.Document, path string, a *Access) {
	named := len(a.Tables) + len(a.Sequences) + len(a.Functions)
	switch {
	case !doc.Sound(path) || !doc.Sound(path+".level"):
		return
	case a.Level == "" && named+len(a.Roles) == 0:
		c.report(doc, path, "required: READ_ONLY, READ_WRITE, ADMIN, or a mapping with level, roles, tables, sequences or functions")
		return
	case a.Level != "" && named+len(a.Roles) > 0:
		c.report(doc, path, "a level stands alone: take it out, or roles, tables, sequences and functions")
	case a.Dangerous && len(a.Roles) == 0:
		c.report(doc, path+".dangerous", "is about roles, and there are none")
	}
	c.checkCreateIn(doc, path+".create_in", a)
	c.checkActAs(doc, path+".act_as", a)
	c.checkList(doc, path+".roles", a.Roles, func(doc *strictyaml.Document, path, name string) { c.checkRole(doc, path, name, a.Dangerous) })
	for _, kind := range []string{kindTables, kindSequences, kindFunctions} {
		c.checkObjects(doc, path+"."+kind, kind, a.named(kind))
	}
}

func (c *checker) checkCreateIn(doc *strictyaml.Document, path string, a *Access) {
	switch {
	case a.CreateIn != nil && a.Level != Admin:
		c.report(doc, path, "only an ADMIN creates objects: want level: ADMIN beside it")
	case a.CreateIn != nil && len(a.CreateIn) == 0:
		c.report(doc, path, "empty: leave the key out for a schema of the person's own")
	}
	c.checkList(doc, path, a.CreateIn, func(doc *strictyaml.Document, path, name string) {
		c.checkName(doc, path, name)
		switch {
		case strings.HasPrefix(name, "pg_") || name == "information_schema":
			c.report(doc, path, "%s is PostgreSQL's own", shorten(name))
		case strings.HasPrefix(name, "hg_"):
			c.report(doc, path, "%s is Hourgate's own", shorten(name))
		}
	})
	slices.Sort(a.CreateIn)
}

func (c *checker) checkActAs(doc *strictyaml.Document, path string, a *Access) {
	switch {
	case a.ActAs == "" || !doc.Sound(path):
	case !slices.Contains(a.Roles, a.ActAs):
		c.report(doc, path, "want one of the roles beside it, got %q", shorten(a.ActAs))
	case !a.Dangerous:
		c.report(doc, path, "what is done as %s stays after the grant: it needs dangerous: true", shorten(a.ActAs))
	}
}

// checkKeep checks a grant's keep_objects_as.
func (c *checker) checkKeep(doc *strictyaml.Document, path string, g *Grant) {
	if g.KeepObjectsAs != "" && doc.Sound(path+".keep_objects_as") && doc.Sound(path+".access") && !g.Access.Creates() {
		c.report(doc, path+".keep_objects_as", "is about what an ADMIN or a named role makes, and this access makes nothing")
		return
	}
	c.checkKeeper(doc, path+".keep_objects_as", g.KeepObjectsAs)
}

// checkKeeper checks who gets what people made, if anybody.
func (c *checker) checkKeeper(doc *strictyaml.Document, path, name string) {
	if name == "" || !doc.Sound(path) {
		return
	}
	c.checkName(doc, path, name)
	_, listed := beyond[name]
	switch {
	case strings.HasPrefix(name, "hg_") || strings.HasPrefix(name, "hourgate_"):
		c.report(doc, path, "%s is Hourgate's own", shorten(name))
	case listed || strings.HasPrefix(name, "pg_") || strings.HasPrefix(name, "rds"):
		c.report(doc, path, "%s is no owner for tables: want an ordinary role", shorten(name))
	}
}

func (c *checker) checkRole(doc *strictyaml.Document, path, name string, dangerous bool) {
	c.checkName(doc, path, name)
	why, listed := beyond[name]
	switch {
	case strings.HasPrefix(name, "hg_") || strings.HasPrefix(name, "hourgate_"):
		c.report(doc, path, "%s is Hourgate's own", name)
	case dangerous:
	case listed:
		c.report(doc, path, "%s %s: it needs dangerous: true", name, why)
	case strings.HasPrefix(name, "pg_") || strings.HasPrefix(name, "rds"):
		c.report(doc, path, "%s may reach beyond the grant's databases: it needs dangerous: true", name)
	}
}

// checkObjects checks one mapping of names to privileges, and puts the privileges in order.
func (c *checker) checkObjects(doc *strictyaml.Document, path, kind string, objects map[string][]Privilege) {
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		at := strictyaml.Join(path, name)
		if !doc.Sound(at) {
			continue
		}
		if _, err := parseObject(kind, name); err != nil {
			c.report(doc, at, "%v", err)
		}
		if len(objects[name]) == 0 {
			c.report(doc, at, "no privileges: want some of %s", enumeratePrivileges(kind))
		}
		words := make([]string, len(objects[name]))
		for i, p := range objects[name] {
			words[i] = string(p)
		}
		c.checkList(doc, at, words, func(doc *strictyaml.Document, path, word string) { c.checkPrivilege(doc, path, kind, Privilege(word)) })
		slices.Sort(objects[name])
	}
}

func (c *checker) checkPrivilege(doc *strictyaml.Document, path, kind string, p Privilege) {
	switch {
	case slices.Contains(privilegesOf[kind], p):
	case p == "TRIGGER":
		c.report(doc, path, "TRIGGER is never granted: a trigger on somebody else's table outlives the grant")
	case p == "ALL":
		c.report(doc, path, "ALL means more with each version of PostgreSQL: want some of %s", enumeratePrivileges(kind))
	default:
		c.report(doc, path, "want some of %s, got %q", enumeratePrivileges(kind), shorten(string(p)))
	}
}

func enumeratePrivileges(kind string) string {
	words := make([]string, len(privilegesOf[kind]))
	for i, p := range privilegesOf[kind] {
		words[i] = string(p)
	}
	return strings.Join(words, ", ")
}

// maxSessionsLimit keeps one grant from taking all of a server's slots.
const maxSessionsLimit = 1000

func (c *checker) checkLimits(doc *strictyaml.Document, path string, g *Grant) {
	if g.MaxSessions < 0 || g.MaxSessions > maxSessionsLimit {
		c.report(doc, path+".max_sessions", "want 1 to %d", maxSessionsLimit)
	}
	for name, d := range map[string]time.Duration{
		"statement_timeout": g.StatementTimeout, "lock_timeout": g.LockTimeout, "idle_in_transaction_session_timeout": g.IdleInTransaction,
	} {
		if d < 0 || d > 0 && d < time.Millisecond || d > 24*24*time.Hour {
			c.report(doc, path+"."+name, "want %v to %s, such as 30s", time.Millisecond, fmt.Sprint(24*24*time.Hour))
		}
	}
}
