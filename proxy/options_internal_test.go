package proxy

import (
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// What is let through at startup is what any session may set for itself, and PostgreSQL knows all of it.
func TestAllowedParametersAreTheUsers(t *testing.T) {
	t.Parallel()
	elsewhere := setOf("application_name", "local_preload_libraries") // the first is let through by itself, the second is not
	unknown := maps.Clone(allowedParameters)
	for _, major := range pgtest.Majors() {
		rows, err := pgtest.Start(t, major).Database(t).Superuser(t).Query(t.Context(), "SELECT lower(name), context FROM pg_catalog.pg_settings WHERE name NOT LIKE '%.%'")
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var name, context string
			if err := rows.Scan(&name, &context); err != nil {
				t.Fatal(err)
			}
			if theirs := context == "user" && !elsewhere[name]; theirs != allowedParameters[name] {
				t.Errorf("PostgreSQL %d: %s is for %s, and let through: %t", major, name, context, allowedParameters[name])
			}
			delete(unknown, name)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	for name := range unknown {
		t.Errorf("PostgreSQL knows no %s", name)
	}
}

var update = flag.Bool("update", false, "write the files that tests compare with")

// The list of PostgreSQL's settings has those of all majors.
func TestSettingNames(t *testing.T) {
	t.Parallel()
	names := setOf("role", "session_authorization", "seed", "in_hot_standby", "is_superuser") // which pg_settings may hide
	for _, major := range pgtest.Majors() {
		rows, err := pgtest.Start(t, major).Database(t).Superuser(t).Query(t.Context(), "SELECT lower(name) FROM pg_catalog.pg_settings WHERE name NOT LIKE '%.%'")
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				t.Fatal(err)
			}
			names[name] = true
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.Join(slices.Sorted(maps.Keys(names)), "\n") + "\n"
	if *update {
		if err := os.WriteFile("settings.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != settingNames {
		t.Error("settings.txt is out of date: run go test ./proxy -run TestSettingNames -update")
	}
}
