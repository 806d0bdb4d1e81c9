package survey

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/internal/upstream"
)

var (
	//go:embed sql/survey.sql
	surveySQL string
	//go:embed sql/owners.sql
	ownersSQL string
)

// DBA is the log-in of somebody who may make roles: a superuser, RDS's master user, or another role with CREATEROLE.
type DBA struct{ User, Password string }

// Survey is what a DBA finds in one database.
type Survey struct {
	Version            int // server_version_num
	Release            string
	DBA                string
	Database           string
	Super              bool
	CreateRole         bool
	Replica            bool
	AdminExists        bool // a role with the admin's name is there already
	CanGrantCreator    bool // admin.CreatorRole is not there yet, or the DBA may grant it
	CanSignal          bool // the DBA may grant pg_signal_backend
	RestrictsPasswords bool // rds.restrict_password_commands

	Owners []Owner `db:"-"`
}

// Owner is a role that owns what people would use.
type Owner struct {
	Name      string
	Super     bool // membership in it would make the admin a superuser
	Self      bool // the DBA: from 16 on nobody can make others a member of the role that they are
	Grantable bool // the DBA may make others a member of it
	Objects   int
	Example   string
}

// Movable are the owners that can't be granted but whose objects the DBA may give another owner: superusers, for a
// superuser, and the DBA.
func (s *Survey) Movable() []Owner {
	return s.owners(func(o Owner) bool { return !o.Grantable && (o.Self || o.Super && s.Super) })
}

// Stuck are the owners that somebody else has to grant.
func (s *Survey) Stuck() []Owner {
	return s.owners(func(o Owner) bool { return !o.Grantable && !o.Self && (!o.Super || !s.Super) })
}

func (s *Survey) owners(is func(Owner) bool) []Owner {
	var found []Owner
	for _, o := range s.Owners {
		if is(o) {
			found = append(found, o)
		}
	}
	return found
}

// Look surveys a database of the server for an admin user of the name.
func Look(ctx context.Context, server *upstream.Server, dba DBA, database, adminUser string) (*Survey, error) {
	conn, err := connect(ctx, server, dba, database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, surveySQL, adminUser, admin.CreatorRole)
	if err != nil {
		return nil, fmt.Errorf("looking at the server: %w", err)
	}
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Survey])
	if err != nil {
		return nil, fmt.Errorf("looking at the server: %w", err)
	}
	rows, err = conn.Query(ctx, ownersSQL, s.Version >= 160000)
	if err == nil {
		s.Owners, err = pgx.CollectRows(rows, pgx.RowToStructByName[Owner])
	}
	if err != nil {
		return nil, fmt.Errorf("looking at the owners in database %s: %w", database, err)
	}
	return s, nil
}

// Apply runs what SQL wrote as the DBA, all of it or nothing: it is one transaction.
func Apply(ctx context.Context, server *upstream.Server, dba DBA, database, sql string) error {
	conn, err := connect(ctx, server, dba, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("running the admin's SQL, of which nothing is in force: %w", err)
	}
	return nil
}

func connect(ctx context.Context, server *upstream.Server, dba DBA, database string) (*pgx.Conn, error) {
	login := upstream.Login{
		User: dba.User, Password: dba.Password, Database: database,
		Params: map[string]string{"application_name": "hourgate init", "client_encoding": "UTF8", "search_path": "pg_catalog", "statement_timeout": "30s"},
	}
	conn, err := upstream.Connect(ctx, server, login, func(ctx context.Context, c *pgconn.Config) (*pgx.Conn, error) {
		cfg, err := pgx.ParseConfig("host=invalid user=invalid sslmode=disable")
		if err != nil {
			return nil, err
		}
		cfg.Config = *c
		return pgx.ConnectConfig(ctx, cfg)
	})
	if err != nil {
		return nil, fmt.Errorf("logging in as %s: %w", dba.User, err)
	}
	return conn, nil
}
