package gate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// Behind a middlebox that gives no keys, sessions are not taken for intruders, and their statements are cancelled by the
// admin.
func TestServerWithoutKeys(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	g := gatetest.New(t, db)
	file := g.Configure(t, gatetest.Options{Grants: gatetest.Grant("inc-1"), SSLMode: "disable"})
	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	port := func(n int) string { return fmt.Sprintf("hostname: localhost\n    port: %d\n", n) }
	before, after, ok := strings.Cut(string(config), port(db.Server.Port))
	if !ok {
		t.Fatalf("where is the port in this?\n%s", config)
	}
	g.Run(t, g.Write(t, "config.yaml", before+port(pgtest.Keyless(t, db.Server))+after))

	conn := g.Connect(t, "orders")
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "SELECT pg_sleep(60)")
		ended <- err
	}()
	super := db.Superuser(t)
	eventually.True(t, "the statement runs", func() bool {
		var running int
		_ = super.QueryRow(t.Context(),
			"SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'PgSleep' AND usename LIKE 'hg_alice%'", db.Name).Scan(&running)
		return running == 1
	})
	if err := g.Gate.Fleet().Keeper("orders").CheckSessions(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	var pgErr *pgconn.PgError
	if err := <-ended; !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.QueryCanceled {
		t.Errorf("the statement ended with %v, want 57014", err)
	}
	if err := conn.Ping(t.Context()); err != nil {
		t.Errorf("the session did not go on: %v", err)
	}
	if n := len(g.Records(t, audit.SessionForeign)); n != 0 {
		t.Errorf("%d sessions were taken for intruders", n)
	}
}
