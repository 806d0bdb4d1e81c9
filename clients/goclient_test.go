//go:build clients

package clients

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// greeting is a parameter that is not ASCII.
const greeting = `Grüße, "naïve" ☃`

// goClient reports for the clients in Go.
type goClient struct{ out io.Writer }

func (c goClient) print(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

func (c goClient) check(name string, check func() error) {
	if err := check(); err != nil {
		c.print("FAIL %s: %s", name, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	c.print("ok %s", name)
}

func want(err error, got, want string) error {
	if err == nil && got != want {
		err = fmt.Errorf("got %s, want %s", got, want)
	}
	return err
}

// wantRole asks for a role that was made for alice.
func wantRole(scan func(to *string) error) error {
	var role string
	err := scan(&role)
	if err == nil && !strings.HasPrefix(role, "hg_alice_work_") {
		err = fmt.Errorf("the session runs as %s", role)
	}
	return err
}

func wantCode(err error, code string) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != code {
		return fmt.Errorf("got %w, want SQLSTATE %s", err, code)
	}
	return nil
}

// wantDenied asks for the refusal of somebody whose grant has ended.
func wantDenied(err error) error {
	var pgErr *pgconn.PgError
	switch {
	case !errors.As(err, &pgErr) || pgErr.Code != "28000" || pgErr.Message != `no live grant for "orders"`:
		return fmt.Errorf("got %w", err)
	case !strings.Contains(pgErr.Detail, "last-week") || !strings.Contains(pgErr.Hint, "connect to: invoices"):
		return fmt.Errorf("DETAIL %q, HINT %q", pgErr.Detail, pgErr.Hint)
	}
	return nil
}

func moduleVersion(module string) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
}
