package roles_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/testdisk"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles"
)

// While the trail's disk is frozen a grant's end takes the role's power. The role goes soon after the thaw, without a sweep.
func TestEndWhileTheTrailsDiskIsFrozen(t *testing.T) {
	t.Parallel()
	disk := testdisk.New(t)
	trail, err := audit.Open(filepath.Join(disk.Folder, "trail.jsonl"), audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = trail.Close() })
	f := newFixture(t, pgtest.Start(t, 16).Database(t), func(c *roles.Config) { c.Trail = trail })
	lease := f.acquire(t, f.grant(policy.Admin, time.Hour))
	role := lease.Login().User
	conn := f.login(t, lease.Login())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE mine (i int)"); err != nil {
		t.Fatal(err)
	}
	disk.Freeze()
	f.Withdraw(role)
	waitFor(t, "the role has no power", func() bool {
		var power bool
		err := f.super.QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin) OR EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1)
			    OR EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = $1)`, role).Scan(&power)
		return err == nil && !power
	})
	disk.Thaw()
	waitForLong(t, 15*time.Second, "the role is gone", func() bool { return !f.exists(t, role) })
	lease.Release()
}
