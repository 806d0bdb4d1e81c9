package roles

import (
	"testing"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// The admin's sessions have settings of their own, whatever the server, the database or the admin's role says.
func TestRule10AdminSessions(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	super := db.Superuser(t)
	for setting, value := range map[string]string{
		"search_path": "public, pg_catalog", "standard_conforming_strings": "off", "client_encoding": "LATIN1", "default_transaction_read_only": "on", "DateStyle": "German",
	} {
		for _, of := range []string{"DATABASE " + admin.QuoteIdentifier(db.Name), "ROLE " + admin.QuoteIdentifier(db.Admin)} {
			if _, err := super.Exec(t.Context(), "ALTER "+of+" SET "+setting+" = "+value); err != nil {
				t.Fatal(err)
			}
		}
	}
	keeper := mortal(t, db, &killer{remaining: -1})
	err := keeper.pool.In(t.Context(), db.Name, func(c *admin.Conn) error {
		for setting, want := range map[string]string{
			"search_path": "pg_catalog", "standard_conforming_strings": "on", "client_encoding": "UTF8", "default_transaction_read_only": "off", "DateStyle": "ISO, MDY",
		} {
			var got string
			if err := c.QueryOne(t.Context(), "SELECT current_setting($1)", []any{setting}, &got); err != nil {
				return err
			}
			if got != want {
				t.Errorf("%s is %s, want %s", setting, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	keeper.pool.Close()
}

// Names are quoted so that the server reads back what was meant, as identifiers and as texts.
func TestRule10Quoting(t *testing.T) {
	t.Parallel()
	conn := pgtest.Start(t, 18).Database(t).Superuser(t)
	for _, name := range []string{"a", "A b", `a"b`, `a'b`, `a\b`, `a\'b`, `"; --`, `'; --`, "$1", "%s", "é☃", "a\nb", `E'\x'`, "select"} {
		var identifier, literal string
		err := conn.QueryRow(t.Context(), "SELECT t.*, "+admin.QuoteLiteral(name)+" FROM (SELECT a.attname::text FROM (SELECT 1 AS "+admin.QuoteIdentifier(name)+
			") s, LATERAL (SELECT json_object_keys(row_to_json(s))) a(attname)) t").Scan(&identifier, &literal)
		if err != nil || identifier != name || literal != name {
			t.Errorf("%q is read as %q and %q, %v", name, identifier, literal, err)
		}
	}
}
