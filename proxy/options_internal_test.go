package proxy

import (
	"maps"
	"slices"
	"testing"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// What is let through at startup is what any session may set for itself, and PostgreSQL knows all of it.
func TestAllowedParametersAreTheUsers(t *testing.T) {
	t.Parallel()
	unknown := maps.Clone(allowedParameters)
	for _, major := range pgtest.Majors() {
		rows, err := pgtest.Start(t, major).Database(t).Superuser(t).Query(t.Context(),
			"SELECT lower(name), context FROM pg_catalog.pg_settings WHERE lower(name) = ANY ($1)", slices.Collect(maps.Keys(allowedParameters)))
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var name, context string
			if err := rows.Scan(&name, &context); err != nil {
				t.Fatal(err)
			}
			if context != "user" {
				t.Errorf("PostgreSQL %d: %s is for %s", major, name, context)
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
