package roles_test

import (
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
	"github.com/hourgate/hourgate/secrets"
)

// A server that asks for the password as it is, as RDS does for members of rds_iam, gets a token and no password.
func TestOnlyATokenGoesOutInCleartext(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, 18, pgtest.Options{HBA: "hostssl all all 127.0.0.1/32 password"})
	for _, token := range []bool{true, false} {
		db := server.Database(t)
		f := newFixture(t, db, func(c *roles.Config) {
			c.Secret = &adminSecret{credential: secrets.Credential{Username: db.Admin, Password: secrets.NewPassword(db.AdminPassword), Token: token}}
		})
		lease, err := f.Acquire(t.Context(), "alice@example.com", f.grant(policy.ReadOnly, time.Hour), db.Name)
		if (err == nil) != token {
			t.Errorf("token %v: got %v", token, err)
		}
		if err == nil {
			lease.Release()
		}
	}
}
