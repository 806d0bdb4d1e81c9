package roles

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/secrets"
)

var errKilled = errors.New("the process was killed")

// killer ends a keeper's life before its nth statement: all its connections break, and no new ones come.
type killer struct {
	mu        sync.Mutex
	remaining int  // statements until the end; negative lives for ever
	inCommit  bool // the last statement is a COMMIT: it is sent, and its answer never read
	dead      bool
	count     int
	hit       bool // a COMMIT was cut off
	died      func()
}

func (k *killer) before(c *admin.Conn, statement string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		_ = c.PgConn().Conn().Close()
		return errKilled
	}
	k.count++
	if k.remaining < 0 || k.count <= k.remaining {
		return nil
	}
	if k.inCommit && statement != "COMMIT" {
		return nil // wait for the next COMMIT
	}
	k.dead = true
	k.died()
	if k.inCommit {
		k.hit = true
		frontend := c.PgConn().Frontend()
		frontend.Send(&pgproto3.Query{String: "COMMIT"})
		_ = frontend.Flush()
	}
	_ = c.PgConn().Conn().Close()
	return errKilled
}

func (k *killer) Use(ctx context.Context, try func(context.Context, secrets.Credential) error, credential secrets.Credential) error {
	k.mu.Lock()
	dead := k.dead
	k.mu.Unlock()
	if dead {
		return errKilled
	}
	return try(ctx, credential)
}

type mortalSecret struct {
	*killer
	credential secrets.Credential
}

func (s mortalSecret) Use(ctx context.Context, try func(context.Context, secrets.Credential) error) error {
	return s.killer.Use(ctx, try, s.credential)
}

type noTrail struct{}

func (noTrail) Append(audit.Record) error { return nil }

func mortal(t *testing.T, db *pgtest.Database, k *killer) *Keeper {
	t.Helper()
	server, err := upstream.New(upstream.Config{
		Host: db.Server.Host, Port: uint16(db.Server.Port), SSLMode: upstream.VerifyFull, RootCert: db.Server.CAFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	keeper := New(Config{
		Integration: "orders", Database: db.Name, Deployment: "crash-" + db.Name, Server: server,
		Secret: mortalSecret{k, secrets.Credential{Username: db.Admin, Password: secrets.NewPassword(db.AdminPassword)}},
		Trail:  noTrail{}, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	keeper.pool.Before = k.before
	return keeper
}

// life is what is cut off somewhere: making a role, a tenant who leaves things behind, settling.
func life(t *testing.T, db *pgtest.Database, k *killer, access policy.Access) (statements int) {
	t.Helper()
	keeper := mortal(t, db, k)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alive, died := context.WithCancel(ctx) // what a dead process still waits for is of no interest
	defer died()
	k.died = died
	grant := &policy.Grant{Name: "g", Integration: "orders", Databases: []string{db.Name}, Access: access, Until: time.Now().Add(time.Hour)}
	lease, err := keeper.Acquire(ctx, "alice@example.com", grant, db.Name)
	if err == nil {
		if conn, err := pgx.Connect(ctx, db.Server.URL(lease.Login().User, lease.Login().Password, db.Name).String()); err == nil {
			for _, s := range []string{
				"CREATE TABLE mine (i int references customers)", "SELECT lo_create(815)", "ALTER ROLE CURRENT_USER SET work_mem = '1GB'",
				"CREATE FUNCTION back() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'", "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
			} {
				_, _ = conn.Exec(ctx, s)
			}
			_ = conn.Close(ctx)
		}
		lease.Release()
		keeper.Withdraw(lease.Login().User) // who owns something would stay until the grant's end
	}
	err = keeper.Close(alive)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil && !k.dead {
		t.Errorf("closing: %v", err)
	}
	return k.count
}

// After a crash before any statement of making and settling a role, and in the middle of any COMMIT, one sweep of another
// process leaves nothing. Of the statements and of the COMMITs, each of three majors takes a share, unless HOURGATE_CRASH is "all"
// (make crash).
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	majors, step := []int{13, 16, 18}, crashShare
	if os.Getenv("HOURGATE_CRASH") == "all" {
		majors, step = pgtest.Majors(), 1
	}
	for _, major := range majors {
		t.Run(fmt.Sprintf("PostgreSQL %d", major), func(t *testing.T) {
			t.Parallel()
			first := major % step
			db := pgtest.Start(t, major).Database(t)
			super := db.Superuser(t)
			for name, access := range map[string]policy.Access{
				"ADMIN":   {Level: policy.Admin},
				"objects": {Tables: map[string][]policy.Privilege{"public.orders": {policy.Select}, "public.*": {policy.Select}}},
			} {
				life(t, db, &killer{remaining: -1}, access) // the level's profile stays
				before := rolesAndRights(t, super)
				total := life(t, db, &killer{remaining: -1}, access)
				commits := 0
				for n := first; n < total; n += step {
					life(t, db, &killer{remaining: n}, access)
					sweepOnce(t, db, super)
					if after := rolesAndRights(t, super); after != before {
						t.Fatalf("%s, killed before statement %d of %d:\nbefore %s\nafter  %s", name, n+1, total, before, after)
					}
				}
				for n := first; n < total; n += step - 1 { // each COMMIT in turn, or those after every so many statements
					k := &killer{remaining: n, inCommit: true}
					life(t, db, k, access)
					if !k.hit {
						break
					}
					commits, n = commits+1, k.count
					sweepOnce(t, db, super)
					if after := rolesAndRights(t, super); after != before {
						t.Fatalf("%s, killed in COMMIT %d:\nbefore %s\nafter  %s", name, commits, before, after)
					}
				}
				t.Logf("%s: %d statements, killed before each of %d, %d, …; and in %d COMMITs", name, total, first+1, first+1+step, commits)
			}
		})
	}
}

// crashShare is which share of the statements one major takes: one of so many.
const crashShare = 7

// sweepOnce is another process's first sweep, once the server has noticed that the first one and its sessions are gone: roles
// that still have sessions are given some time, in which their proxy may come back.
func sweepOnce(t *testing.T, db *pgtest.Database, super *pgx.Conn) {
	t.Helper()
	var left string
	stays := func() bool {
		if err := super.QueryRow(t.Context(), `SELECT coalesce(string_agg(concat_ws(' ', usename, state, wait_event, query), '; '), '') FROM pg_stat_activity
			WHERE datname = $1 AND pid <> pg_backend_pid() AND backend_type = 'client backend'`, db.Name).Scan(&left); err != nil {
			t.Fatal(err)
		}
		return left != ""
	}
	for deadline := time.Now().Add(30 * time.Second); stays(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("backends of the killed process stay: %s", left)
		}
	}
	fresh := mortal(t, db, &killer{remaining: -1})
	nobody, err := policy.Parse(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	fresh.cfg.Policy = policy.NewLive(nobody)
	if err := fresh.Sweep(t.Context()); err != nil {
		t.Errorf("sweep: %v", err)
	}
	if err := fresh.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// rolesAndRights is everything that could be left, in one line.
func rolesAndRights(t *testing.T, super *pgx.Conn) (line string) {
	t.Helper()
	err := super.QueryRow(t.Context(), `
		SELECT concat_ws(' | ',
			(SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles WHERE rolname ~ current_database() OR shobj_description(oid, 'pg_authid') ~ current_database()),
			(SELECT string_agg(oid::regclass || '=' || relowner::regrole || coalesce(relacl::text, ''), ',' ORDER BY oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
			(SELECT string_agg(nspname || coalesce(nspacl::text, ''), ',' ORDER BY oid) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'),
			(SELECT string_agg(defaclrole::regrole || defaclacl::text, ',' ORDER BY defaclrole, defaclobjtype, defaclnamespace) FROM pg_default_acl),
			(SELECT string_agg(oid::regprocedure::text, ',') FROM pg_proc WHERE oid >= 16384),
			(SELECT count(*) FROM pg_largeobject_metadata), (SELECT datacl FROM pg_database WHERE datname = current_database()),
			(SELECT count(*) FROM pg_auth_members m WHERE pg_get_userbyid(member) ~ 'unknown' OR pg_get_userbyid(roleid) ~ substr(current_database(), 4)),
			(SELECT count(*) FROM pg_shdepend WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())))`).Scan(&line)
	if err != nil {
		t.Fatal(err)
	}
	return line
}
