package roles_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
)

// Whatever is set for the server, the database or the admin's user, roles are made and end in time: also while a synchronous standby
// is away, for which each COMMIT waits.
func TestSettingsOfTheServer(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, major, pgtest.Options{})
			db := server.Database(t)
			setUp := db.Superuser(t)
			statements := []string{"ALTER ROLE postgres SET synchronous_commit = local"}
			set := map[string]string{
				"role": db.Owner, "statement_timeout": "20ms", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "20ms",
				"default_transaction_read_only": "on", "default_transaction_isolation": "serializable", "client_min_messages": "error",
				"quote_all_identifiers": "on", "search_path": "public", "standard_conforming_strings": "off", "DateStyle": "German", "TimeZone": "Asia/Tokyo",
			}
			if major >= 14 {
				set["idle_session_timeout"] = "2s"
			}
			if major >= 17 {
				set["transaction_timeout"] = "2s"
			}
			for name, value := range set {
				statements = append(statements, fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET %s = '%s'", db.Admin, db.Name, name, value))
			}
			statements = append(statements, "ALTER SYSTEM SET synchronous_standby_names = 'away'", "SELECT pg_reload_conf()")
			for _, s := range statements {
				if _, err := setUp.Exec(t.Context(), s); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
			}
			waitFor(t, "COMMIT waits for the standby", func() bool {
				var names string
				return setUp.QueryRow(t.Context(), "SHOW synchronous_standby_names").Scan(&names) == nil && names == "away"
			})

			f := newFixture(t, db)
			lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
			conn := f.login(t, lease.Login())
			ended := make(chan error, 1)
			go func() {
				_, err := conn.Exec(t.Context(), "CREATE TABLE mine (i int)")
				ended <- err
			}()
			waitFor(t, "the tenant's COMMIT waits", func() bool {
				var waits bool
				err := f.super.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'").Scan(&waits)
				return err == nil && waits
			})
			if major >= 14 {
				idle, err := pgx.Connect(t.Context(), server.URL(db.Admin, db.AdminPassword, db.Name).String())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := idle.WaitForNotification(t.Context()); admin.SQLState(err) != pgerrcode.IdleSessionTimeout {
					t.Errorf("an idle session of the admin's user: %v", err)
				}
				var left int
				err = f.super.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", f.Application()).Scan(&left)
				if err != nil || left == 0 {
					t.Errorf("the admin has %d connections left, %v", left, err)
				}
			}
			f.waitGone(t, lease.Login().User)
			if err := <-ended; err == nil {
				t.Error("the tenant was told that its table is there")
			}
		})
	}
}
