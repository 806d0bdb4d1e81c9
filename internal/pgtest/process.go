package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"sync"
	"syscall"
)

// account is the user that servers run as; nil for the user of the tests.
type account struct{ uid, gid int }

// serverAccount is the user postgres if the tests run as root, which PostgreSQL refuses to do.
var serverAccount = sync.OnceValues(func() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nil is the tests' own user
	}
	postgres, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("run scripts/install: %w", err)
	}
	uid, uidErr := strconv.Atoi(postgres.Uid)
	gid, gidErr := strconv.Atoi(postgres.Gid)
	if uidErr != nil || gidErr != nil {
		return nil, fmt.Errorf("user postgres has IDs %q and %q", postgres.Uid, postgres.Gid)
	}
	return &account{uid: uid, gid: gid}, nil
})

func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// command is prepared to run a server program in dir, with nothing of our environment: PGDATA, PGPORT
// and the like would change what it does.
func (a *account) command(dir, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...) //nolint:noctx // lives until it is stopped
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = dyingWithUs()
	if a != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)} //nolint:gosec // IDs fit
	}
	return cmd
}
