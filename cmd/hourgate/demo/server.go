package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgserver"
	"github.com/hourgate/hourgate/internal/verifier"
)

//go:embed orders.sql
var demoOrdersSQL string

// fillDemoServer makes the users and the database as a DBA would before Hourgate is put in front of it.
func fillDemoServer(ctx context.Context, server *pgserver.Server, passwords map[string]string) error {
	owner, admin := pgx.Identifier{demoOwner}.Sanitize(), pgx.Identifier{demoAdmin}.Sanitize()
	ownerVerifier, ownerErr := verifier.New(passwords[demoOwner], verifier.DefaultIterations)
	adminVerifier, adminErr := verifier.New(passwords[demoAdmin], verifier.DefaultIterations)
	if err := errors.Join(ownerErr, adminErr); err != nil {
		return err
	}
	err := server.Exec(ctx, pgserver.Superuser,
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", owner, ownerVerifier.Encode()),
		fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE NOSUPERUSER PASSWORD '%s'", admin, adminVerifier.Encode()),
		fmt.Sprintf("GRANT %s TO %s", owner, admin),
		fmt.Sprintf("CREATE DATABASE %s OWNER %s", pgx.Identifier{demoDatabase}.Sanitize(), owner))
	if err != nil {
		return err
	}
	return server.Exec(ctx, demoDatabase, "SET ROLE "+owner, demoOrdersSQL)
}
