//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgserver"
	"github.com/hourgate/hourgate/internal/verifier"
)

// Users and databases. Everybody connects as benchUser to benchDatabase, through a proxy or not: PgBouncer's database
// and Hourgate's integration have that name too.
const (
	benchDatabase = "bench"
	benchUser     = "bench"
	benchOwner    = "bench_owner"
	gateAdmin     = "hourgate_admin"
)

// startServer starts PostgreSQL and fills the database.
func (r *rig) startServer(ctx context.Context) error {
	v, err := verifier.New(r.password, verifier.DefaultIterations)
	if err != nil {
		return err
	}
	r.verifier = v.Encode()
	r.server, err = pgserver.Start(ctx, pgserver.Config{
		Programs: r.programs, Authority: r.authority, Folder: r.file("postgresql"),
		Settings: []string{
			"shared_buffers=128MB", "max_connections=" + strconv.Itoa(serverConnections), "max_wal_size=4GB",
			"autovacuum=off", "jit=off", // they would come and go in somebody's turn
		},
	})
	if err != nil {
		return err
	}
	r.results.Versions["PostgreSQL"] = r.server.Version
	if err := r.allowPlain(); err != nil {
		return err
	}
	return r.fill(ctx)
}

// allowPlain lets in who comes without TLS, before fill makes the server look at the file again.
func (r *rig) allowPlain() error {
	hba, err := os.OpenFile(filepath.Join(r.file("postgresql"), "data", "pg_hba.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = hba.WriteString("hostnossl all all 127.0.0.1/32 scram-sha-256\n")
	return errors.Join(err, hba.Close())
}

// fill makes users and tables: pgbench's, and one for COPY to go to.
func (r *rig) fill(ctx context.Context) error {
	name := func(s string) string { return pgx.Identifier{s}.Sanitize() }
	err := r.server.Exec(ctx, pgserver.Superuser,
		"SELECT pg_reload_conf()",
		fmt.Sprintf("CREATE ROLE %s", name(benchOwner)),
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", name(benchUser), r.verifier),
		fmt.Sprintf("DO $$ BEGIN FOR i IN 0..%d LOOP EXECUTE format('CREATE ROLE %%I LOGIN IN ROLE %s PASSWORD %%L', "+
			"'crowd-' || to_char(i, 'FM00'), '%s'); END LOOP; END $$", crowd-1, name(benchUser), r.verifier),
		fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE PASSWORD '%s'", name(gateAdmin), r.verifier),
		fmt.Sprintf("GRANT %s TO %s", name(benchOwner), name(gateAdmin)),
		fmt.Sprintf("CREATE DATABASE %s OWNER %s", name(benchDatabase), name(benchOwner)))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, r.pgbench, "-i", "-q", "-s", "1", benchDatabase)
	cmd.Env = append(os.Environ(), "PGHOST="+r.file("postgresql"), "PGPORT="+strconv.Itoa(r.server.Port),
		"PGUSER="+pgserver.Superuser, "PGOPTIONS=-c role="+benchOwner)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgbench -i: %w\n%s", err, out)
	}
	return r.server.Exec(ctx, benchDatabase,
		"SET ROLE "+name(benchOwner),
		"CREATE UNLOGGED TABLE sink (payload text)",
		fmt.Sprintf("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO %s", name(benchUser)),
		"RESET ROLE",
		"VACUUM ANALYZE")
}
