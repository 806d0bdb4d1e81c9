package proxy_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// What the server says while somebody logs in, as a trigger does from 17 on, reaches them as it does without the gate.
func TestGreeting(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	super := db.Superuser(t)
	for _, sql := range []string{
		`CREATE FUNCTION welcome() RETURNS event_trigger LANGUAGE plpgsql AS
			$$ BEGIN RAISE NOTICE 'you are welcome' USING HINT = 'mind the step'; RAISE WARNING 'it is late'; END $$`,
		"CREATE EVENT TRIGGER welcome ON login EXECUTE FUNCTION welcome()", "ALTER EVENT TRIGGER welcome ENABLE ALWAYS",
	} {
		if _, err := super.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	g := startGate(t, db, gateOptions{})
	heard := func(url string) (notices []pgconn.Notice) {
		t.Helper()
		cfg, err := pgx.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, *n) }
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close(context.Background())
		return notices
	}
	direct := heard(fmt.Sprintf("host=localhost port=%d user=%s password='%s' dbname=%s sslmode=verify-full sslrootcert=%s",
		db.Server.Port, db.Owner, db.OwnerPassword, db.Name, db.Server.CAFile))
	if len(direct) != 2 {
		t.Fatalf("direct: %v", direct)
	}
	if diff := cmp.Diff(direct, heard(g.url(""))); diff != "" {
		t.Errorf("through the gate (-direct +gate):\n%s", diff)
	}
}
