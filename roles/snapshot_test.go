package roles_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// catalogs are those that can carry a right, an owner, a setting or a session, each with a condition for what belongs to
// the test: servers are shared. $1 is in the name of each of the test's roles, or in its comment.
var catalogs = map[string]string{
	// The database's own.
	"pg_class":                "relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_') AND oid >= 16384",
	"pg_attribute":            "attacl IS NOT NULL AND attrelid >= 16384",
	"pg_proc":                 "oid >= 16384",
	"pg_type":                 "oid >= 16384 AND typnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_')",
	"pg_namespace":            "nspname !~ '^pg_(toast_)?temp'",
	"pg_default_acl":          "true",
	"pg_trigger":              "true",
	"pg_rewrite":              "oid >= 16384",
	"pg_policy":               "true",
	"pg_constraint":           "oid >= 16384",
	"pg_largeobject_metadata": "true",
	"pg_event_trigger":        "true",
	"pg_extension":            "true",
	"pg_foreign_server":       "true",
	"pg_foreign_data_wrapper": "true",
	"pg_user_mapping":         "true",
	"pg_publication":          "true",
	"pg_collation":            "oid >= 16384",
	"pg_conversion":           "oid >= 16384",
	"pg_operator":             "oid >= 16384",
	"pg_opclass":              "oid >= 16384",
	"pg_opfamily":             "oid >= 16384",
	"pg_cast":                 "oid >= 16384",
	"pg_language":             "oid >= 16384",
	"pg_ts_config":            "oid >= 16384",
	"pg_ts_dict":              "oid >= 16384",
	"pg_statistic_ext":        "true",
	"pg_inherits":             "true",
	"pg_init_privs":           "true",
	"pg_seclabel":             "true",
	"pg_description":          "objoid >= 16384",
	// The server's.
	"pg_database":          "datname = current_database()",
	"pg_authid":            "rolname ~ $1 OR shobj_description(oid, 'pg_authid') ~ $1",
	"pg_auth_members":      "pg_get_userbyid(member) ~ $1 OR pg_get_userbyid(roleid) ~ $1",
	"pg_db_role_setting":   "setdatabase IN (SELECT oid FROM pg_database WHERE datname = current_database()) OR pg_get_userbyid(setrole) ~ $1",
	"pg_shdepend":          "refclassid = 'pg_authid'::regclass AND (dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) OR pg_get_userbyid(refobjid) ~ $1)",
	"pg_shdescription":     "classoid = 'pg_authid'::regclass AND (pg_get_userbyid(objoid) ~ $1 OR description ~ $1)",
	"pg_shseclabel":        "true",
	"pg_subscription":      "true",
	"pg_replication_slots": "database = current_database()",
	"pg_prepared_xacts":    "database = current_database()",
	"pg_stat_activity":     "datname = current_database() AND usename IS DISTINCT FROM 'postgres' AND usename !~ '^(admin|owner)_' AND backend_type = 'client backend'",
}

// volatile are columns that change by themselves, and OIDs of what has no name but an OID and is made anew by a refresh.
var volatile = map[string]string{
	"pg_class":             "relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid,relhasindex,relhastriggers,relhasrules",
	"pg_database":          "datfrozenxid,datminmxid",
	"pg_default_acl":       "oid",
	"pg_auth_members":      "oid",
	"pg_shdepend":          "objid",
	"pg_replication_slots": "restart_lsn,confirmed_flush_lsn",
}

// snapshot is every row of the catalogs, as text and sorted.
func (f *fixture) snapshot(t *testing.T) []string {
	t.Helper()
	var queries []string
	for catalog, condition := range catalogs {
		queries = append(queries, fmt.Sprintf("SELECT '%s ' || (to_jsonb(c) - '{%s}'::text[])::text FROM %s c WHERE %s",
			catalog, volatile[catalog], catalog, condition))
	}
	rows, err := f.super.Query(t.Context(), "SELECT * FROM ("+strings.Join(queries, "\nUNION ALL ")+") s(line) ORDER BY line COLLATE \"C\"",
		strings.TrimPrefix(f.db.Name, "db_"))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
