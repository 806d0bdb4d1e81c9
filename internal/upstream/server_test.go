package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
)

// patience is far above what anything takes, since other tests run at the same time.
const patience = 20 * time.Second

// What becomes of an attempt to connect.
const (
	encrypted   = "TLS"
	unencrypted = "plaintext"
	notReached  = "DialError"
	noEntry     = pgerrcode.InvalidAuthorizationSpecification // PostgreSQL has no line for this kind of connection
)

// connect logs in and returns what became of it: TLS, plaintext, DialError, or a SQLSTATE.
func connect(t *testing.T, s *upstream.Server, l upstream.Login) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := upstream.Connect(ctx, s, l, pgconn.ConnectConfig)
	var dialErr *upstream.DialError
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &dialErr):
		return notReached
	case errors.As(err, &pgErr):
		return pgErr.Code
	case err != nil:
		return err.Error()
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if string(results[0].Rows[0][0]) == "t" {
		return encrypted
	}
	return unencrypted
}

func newServer(t *testing.T, cfg upstream.Config) *upstream.Server {
	t.Helper()
	s, err := upstream.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func config(server *pgtest.Server, mode upstream.SSLMode, root string) upstream.Config {
	return upstream.Config{Host: "localhost", Port: uint16(server.Port), SSLMode: mode, RootCert: root}
}

func owner(db *pgtest.Database) upstream.Login {
	return upstream.Login{User: db.Owner, Password: db.OwnerPassword, Database: db.Name}
}

// The six modes against servers that take both kinds of connection, or one. The columns are knowledge/wire.md's, but for
// prefer, which does not go back to plaintext after a refusal.
func TestSSLModes(t *testing.T) {
	t.Parallel()
	type row map[upstream.SSLMode]string
	for name, server := range map[string]struct {
		options pgtest.Options
		want    row
	}{
		"both": {pgtest.Options{}, row{
			upstream.Disable: unencrypted, upstream.Allow: unencrypted, upstream.Prefer: encrypted,
			upstream.Require: encrypted, upstream.VerifyCA: encrypted, upstream.VerifyFull: encrypted,
		}},
		"no TLS": {pgtest.Options{Settings: map[string]string{"ssl": "off"}, HBA: "host all all 127.0.0.1/32 scram-sha-256"}, row{
			upstream.Disable: unencrypted, upstream.Allow: unencrypted, upstream.Prefer: unencrypted,
			upstream.Require: notReached, upstream.VerifyCA: notReached, upstream.VerifyFull: notReached,
		}},
		"hostssl only (rds.force_ssl)": {pgtest.Options{HBA: "hostssl all all 127.0.0.1/32 scram-sha-256"}, row{
			upstream.Disable: noEntry, upstream.Allow: encrypted, upstream.Prefer: encrypted,
			upstream.Require: encrypted, upstream.VerifyCA: encrypted, upstream.VerifyFull: encrypted,
		}},
		"hostnossl only": {pgtest.Options{HBA: "hostnossl all all 127.0.0.1/32 scram-sha-256"}, row{
			upstream.Disable: unencrypted, upstream.Allow: unencrypted, upstream.Prefer: noEntry,
			upstream.Require: noEntry, upstream.VerifyCA: noEntry, upstream.VerifyFull: noEntry,
		}},
	} {
		for _, major := range []int{13, 18} {
			t.Run(fmt.Sprintf("%s, PostgreSQL %d", name, major), func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t, major, server.options).Database(t)
				for mode, want := range server.want {
					t.Run(string(mode), func(t *testing.T) {
						t.Parallel()
						s := newServer(t, config(db.Server, mode, db.Server.CAFile))
						if got := connect(t, s, owner(db)); got != want {
							t.Errorf("got %s, want %s", got, want)
						}
						// A wrong password is refused in every mode that gets so far.
						wrong := owner(db)
						wrong.Password = "wrong"
						if want == encrypted || want == unencrypted {
							want = pgerrcode.InvalidPassword
						}
						if got := connect(t, s, wrong); got != want {
							t.Errorf("with a wrong password: got %s, want %s", got, want)
						}
					})
				}
			})
		}
	}
}

// Who is trusted: the authority, and for verify-full the name.
func TestVerification(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 18)
	db := server.Database(t)
	other := pgtest.CA(t).CertFile
	for _, rule := range []struct {
		name string
		mode upstream.SSLMode
		host string
		root string
		want string
	}{
		{"verify-full, right", upstream.VerifyFull, "localhost", server.CAFile, encrypted},
		{"verify-full, an address in the certificate", upstream.VerifyFull, "127.0.0.1", server.CAFile, encrypted},
		{"verify-full, another name", upstream.VerifyFull, "127.0.0.2", server.CAFile, notReached},
		{"verify-full, another authority", upstream.VerifyFull, "localhost", other, notReached},
		{"verify-ca, right", upstream.VerifyCA, "localhost", server.CAFile, encrypted},
		{"verify-ca, another authority", upstream.VerifyCA, "localhost", other, notReached},
		{"require, right", upstream.Require, "localhost", server.CAFile, encrypted},
		{"require, another authority (as libpq: a root file makes it verify-ca)", upstream.Require, "localhost", other, notReached},
		{"require, no root file", upstream.Require, "localhost", "", encrypted},
		{"prefer, another authority: no way back to plaintext", upstream.Prefer, "localhost", other, notReached},
		{"prefer, no root file", upstream.Prefer, "localhost", "", encrypted},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(server, rule.mode, rule.root)
			cfg.Host = rule.host
			if got := connect(t, newServer(t, cfg), owner(db)); got != rule.want {
				t.Errorf("got %s, want %s", got, rule.want)
			}
		})
	}
}

// verify-ca does not look at the name. 127.0.0.2 is the same machine but not in the certificate, so this server listens
// there too.
func TestNameIsForVerifyFullOnly(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, 18, pgtest.Options{
		Settings: map[string]string{"listen_addresses": "127.0.0.1,127.0.0.2"},
		HBA:      "host all all 127.0.0.0/8 scram-sha-256",
	})
	db := server.Database(t)
	for mode, want := range map[upstream.SSLMode]string{
		upstream.Require: encrypted, upstream.VerifyCA: encrypted, upstream.VerifyFull: notReached,
	} {
		cfg := config(server, mode, server.CAFile)
		cfg.Host = "127.0.0.2"
		if got := connect(t, newServer(t, cfg), owner(db)); got != want {
			t.Errorf("%s: got %s, want %s", mode, got, want)
		}
	}
}

// What can be wrong with a root file is found before anything is dialled.
func TestNewChecksTheRootFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	empty := filepath.Join(folder, "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []upstream.SSLMode{upstream.VerifyCA, upstream.VerifyFull} {
		for file, want := range map[string]string{
			"": "ssl_root_cert", filepath.Join(folder, "none.pem"): "no such file", empty: "holds no PEM certificate", folder: "is a directory",
		} {
			_, err := upstream.New(upstream.Config{Host: "localhost", Port: 5432, SSLMode: mode, RootCert: file})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s with %q: got %v, want %q", mode, file, err, want)
			}
		}
	}
	if _, err := upstream.New(upstream.Config{Host: "localhost", Port: 5432, SSLMode: upstream.Prefer}); err != nil {
		t.Errorf("prefer without a root file: %v", err)
	}
}

// A root file that is replaced counts from the next connection, also when a TLS session could be resumed.
func TestRootFileIsReadAgain(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 18)
	db := server.Database(t)
	right, err := os.ReadFile(server.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := os.ReadFile(pgtest.CA(t).CertFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []upstream.SSLMode{upstream.Require, upstream.VerifyCA, upstream.VerifyFull} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "roots.pem")
			replace := func(content []byte) {
				// A length of its own: the time of a file is not fine enough to tell two writes in a row.
				content = append(content, strings.Repeat("\n", time.Now().Nanosecond()%1000)...)
				if err := errors.Join(os.WriteFile(file+".new", content, 0o600), os.Rename(file+".new", file)); err != nil {
					t.Fatal(err)
				}
			}
			replace(right)
			s := newServer(t, config(server, mode, file))
			for i, step := range []struct {
				change func()
				want   string
			}{
				{func() {}, encrypted},
				{func() { replace(wrong) }, notReached},
				{func() { replace(append(append([]byte(nil), wrong...), right...)) }, encrypted}, // as an authority is changed
				{func() { _ = os.Remove(file) }, notReached},
				{func() { replace([]byte("half a fi")) }, notReached},
				{func() { replace(right) }, encrypted},
			} {
				step.change()
				if got := connect(t, s, owner(db)); got != step.want {
					t.Errorf("step %d: got %s, want %s", i, got, step.want)
				}
			}
		})
	}
}

// The password goes out as a SCRAM proof only: a server that asks for it in another way gets nothing.
func TestRule06OnlySCRAM(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"password", "md5", "trust"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, 15, pgtest.Options{HBA: "host all all 127.0.0.1/32 " + method})
			db := server.Database(t)
			if method == "md5" { // which the server asks for only if the password is stored so
				_, err := db.Superuser(t).Exec(t.Context(), fmt.Sprintf("SET password_encryption = md5; ALTER ROLE %s PASSWORD '%s'", db.Owner, db.OwnerPassword))
				if err != nil {
					t.Fatal(err)
				}
			}
			got := connect(t, newServer(t, config(server, upstream.VerifyFull, server.CAFile)), owner(db))
			if got == encrypted || strings.Contains(got, db.OwnerPassword) {
				t.Errorf("logged in by %s: %s", method, got)
			}
		})
	}
}

// Parameters reach the server as they are, and the environment's don't.
func TestParameters(t *testing.T) {
	t.Setenv("PGAPPNAME", "from the environment")
	t.Setenv("PGOPTIONS", "-c geqo=off")
	t.Setenv("PGSSLMODE", "disable")
	db := pgtest.Start(t, 18).Database(t)
	s := newServer(t, config(db.Server, upstream.VerifyFull, db.Server.CAFile))
	l := owner(db)
	l.Params = map[string]string{"application_name": "a 'b' \\c = d", "search_path": "x,y"}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := upstream.Connect(ctx, s, l, pgconn.ConnectConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, "SELECT current_setting('application_name'), current_setting('search_path'), current_setting('geqo')").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"a 'b' \\c = d", "x,y", "on"} {
		if got := string(results[0].Rows[0][i]); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Cancel ends the statement, over the kind of connection that the session has.
func TestCancel(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]struct {
		options pgtest.Options
		mode    upstream.SSLMode
	}{
		"TLS":                   {pgtest.Options{HBA: "hostssl all all 127.0.0.1/32 scram-sha-256"}, upstream.VerifyFull},
		"plaintext":             {pgtest.Options{Settings: map[string]string{"ssl": "off"}, HBA: "host all all 127.0.0.1/32 scram-sha-256"}, upstream.Disable},
		"plaintext by prefer":   {pgtest.Options{Settings: map[string]string{"ssl": "off"}, HBA: "host all all 127.0.0.1/32 scram-sha-256"}, upstream.Prefer},
		"TLS by the second try": {pgtest.Options{HBA: "hostssl all all 127.0.0.1/32 scram-sha-256"}, upstream.Allow},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, 18, rule.options).Database(t)
			s := newServer(t, config(db.Server, rule.mode, db.Server.CAFile))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, err := upstream.Connect(ctx, s, owner(db), pgconn.ConnectConfig)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := conn.Exec(ctx, "SELECT pg_sleep(60)").ReadAll()
				ended <- err
			}()
			watcher := db.Superuser(t)
			awaitSleep(t, watcher, conn.PID())
			if err := s.Cancel(ctx, conn.Conn(), conn.PID(), conn.SecretKey()); err != nil {
				t.Error(err)
			}
			var pgErr *pgconn.PgError
			if err := <-ended; !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.QueryCanceled {
				t.Errorf("the statement ended with %v, want 57014", err)
			}
			_ = conn.Close(ctx)
		})
	}
}

func awaitSleep(t *testing.T, conn *pgx.Conn, pid uint32) {
	t.Helper()
	eventually.True(t, "the statement runs", func() (sleeps bool) {
		err := conn.QueryRow(t.Context(), "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'", pid).Scan(&sleeps)
		if err != nil {
			t.Fatal(err)
		}
		return sleeps
	})
}

// A server that is not there, or whose log-in is given up, leaves nothing running. Not parallel: goleak sees all
// goroutines.
func TestNothingIsLeft(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), pgtest.IgnoreGoroutines())
	p := script(t, func(c *scripted) { c.expectSSLRequest(); c.hold() })
	s := newServer(t, upstream.Config{Host: "127.0.0.1", Port: p.port, SSLMode: upstream.Require})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := upstream.Connect(ctx, s, upstream.Login{User: "u", Password: "p", Database: "d"}, pgconn.ConnectConfig)
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	p.close()
}
