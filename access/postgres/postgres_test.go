package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hourgate/hourgate/access"
	"github.com/hourgate/hourgate/access/postgres"
	"github.com/hourgate/hourgate/access/storetest"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

func TestMain(m *testing.M) {
	if place := os.Getenv("HOURGATE_STATE_CRASH"); place != "" {
		var w where
		err := json.Unmarshal([]byte(place), &w)
		var s *postgres.Store
		if err == nil {
			s, err = w.open()
		}
		storetest.WriteForever(s, err)
	}
	pgtest.Main(m)
}

// where is a database for a process that writes into it.
type where struct {
	Port                         int
	CA, Database, User, Password string
}

func (w where) open() (*postgres.Store, error) {
	server, err := upstream.New(upstream.Config{Host: "localhost", Port: uint16(w.Port), SSLMode: upstream.VerifyFull, RootCert: w.CA})
	if err != nil {
		return nil, err
	}
	return postgres.Open(postgres.Config{Server: server, Database: w.Database, Secret: secret{Username: w.User, Password: secrets.NewPassword(w.Password)}}), nil
}

// secret is that of an ordinary user who owns the database: nothing more is needed.
type secret secrets.Credential

func (s secret) Use(ctx context.Context, try func(context.Context, secrets.Credential) error) error {
	return try(ctx, secrets.Credential(s))
}

func at(db *pgtest.Database) where {
	return where{db.Server.Port, db.Server.CAFile, db.Name, db.Owner, db.OwnerPassword}
}

func open(t testing.TB, db *pgtest.Database) *postgres.Store {
	t.Helper()
	s, err := at(db).open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestKilled kills a gate's process that writes, again and again. What it had begun is rolled back by the server before others go on.
func TestKilled(t *testing.T) {
	t.Parallel()
	majors := pgtest.Majors()
	db := pgtest.Start(t, majors[len(majors)-1]).Database(t)
	place, err := json.Marshal(at(db))
	if err != nil {
		t.Fatal(err)
	}
	storetest.Killed(t, "HOURGATE_STATE_CRASH="+string(place), func(t *testing.T) access.Store {
		s := open(t, db)
		// The server may still be at the last change of a process that is gone.
		eventually.True(t, "the killed process's connection is gone", func() bool {
			var n int
			err := db.Superuser(t).QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'hourgate state'", db.Name).Scan(&n)
			return err == nil && n == 0
		})
		return s
	})
}

// TestStore takes turns between three stores of one database, as replicas would.
func TestStore(t *testing.T) {
	t.Parallel()
	majors := pgtest.Majors()
	for _, major := range []int{majors[0], majors[len(majors)-1]} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.Start(t, major)
			storetest.Run(t, func(t *testing.T) func() access.Store {
				db := server.Database(t)
				replicas := []access.Store{open(t, db), open(t, db), open(t, db)}
				next := 0
				return func() access.Store { next++; return replicas[next%len(replicas)] }
			})
		})
	}
}

// TestWatch: another store hears of a change at once, and goes on to after its connection was cut.
func TestWatch(t *testing.T) {
	t.Parallel()
	majors := pgtest.Majors()
	db := pgtest.Start(t, majors[len(majors)-1]).Database(t)
	writer, watcher := open(t, db), open(t, db)
	heard := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		watcher.Watch(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
		close(done)
	}()
	defer func() { cancel(); <-done }()
	await := func(what string) {
		t.Helper()
		select {
		case <-heard:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s was not heard of", what)
		}
	}
	file := func() {
		t.Helper()
		if err := writer.Create(t.Context(), storetest.Sample("bob"), 5, storetest.Silent); err != nil {
			t.Fatal(err)
		}
	}

	await("the beginning")
	file()
	await("a request")
	if _, err := db.Superuser(t).Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'listen%'`); err != nil {
		t.Fatal(err)
	}
	await("the new connection")
	file()
	await("a request after the loss")
}
