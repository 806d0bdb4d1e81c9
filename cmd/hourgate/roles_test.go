package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// command runs a subcommand in this process.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestRolesCommands(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 16).Database(t), gatetest.Options{Grants: gatetest.Grant("inc-1")})
	config := filepath.Join(g.Folder, "config.yaml")
	g.Connect(t, "orders")
	name := g.Roles(t)[0]

	code, out, errs := command(t, "roles", "list", "--config", config)
	if code != 0 || !strings.HasPrefix(out, "INTEGRATION  ROLE") || !strings.Contains(out, name+"  "+gatetest.Alice+"  inc-1") || !strings.Contains(out, "live") {
		t.Errorf("list: exit %d\n%s%s", code, out, errs)
	}
	code, out, errs = command(t, "roles", "list", "--json", "--config", config)
	found := false
	for line := range strings.Lines(out) {
		var listed struct{ Integration, Name, State string }
		if err := json.Unmarshal([]byte(line), &listed); err != nil {
			t.Fatalf("list --json: %v in %q", err, line)
		}
		found = found || listed.Integration == "orders" && listed.Name == name && listed.State == "live"
	}
	if code != 0 || !found {
		t.Errorf("list --json: exit %d\n%s%s", code, out, errs)
	}

	// A gate that lives answers for its roles.
	if code, out, errs = command(t, "roles", "sweep", "--config", config); code != 0 || len(g.Roles(t)) != 1 {
		t.Errorf("sweep: exit %d, roles %v\n%s%s", code, g.Roles(t), out, errs)
	}
	if code, out, errs = command(t, "roles", "settle", "hg_nobody", "--config", config); code != 1 || !strings.Contains(errs, "hg_nobody") {
		t.Errorf("settle of nobody: exit %d\n%s%s", code, out, errs)
	}
	if code, out, errs = command(t, "roles", "settle", name, "--config", config); code != 0 || !strings.Contains(out, name+" is gone") {
		t.Errorf("settle: exit %d\n%s%s", code, out, errs)
	}
	for _, r := range g.Roles(t) {
		if r == name {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestPreflightCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-1")})
	config := filepath.Join(g.Folder, "config.yaml")
	code, out, errs := command(t, "preflight", "orders", "--config", config)
	if code != 0 || !strings.Contains(out, "warn  orders/"+db.Name+"  public connect: ") || !strings.Contains(out, "        REVOKE CONNECT ON DATABASE") {
		t.Errorf("preflight: exit %d\n%s%s", code, out, errs)
	}
	if before, _, _ := strings.Cut(out, "REVOKE CONNECT ON DATABASE"); !strings.Contains(before, "before it: GRANT CONNECT ON DATABASE "+db.Name) {
		t.Errorf("preflight has applications cut off:\n%s", out)
	}
	if _, err := db.Superuser(t).Exec(t.Context(), "CREATE TABLE superusers (i int)"); err != nil {
		t.Fatal(err)
	}
	code, out, errs = command(t, "preflight", "--json", "--config", config)
	if code != 0 || !strings.Contains(out, "postgres owns table public.superusers") {
		t.Errorf("preflight with an owner that the admin is no member of: exit %d\n%s%s", code, out, errs)
	}
	if _, err := db.Superuser(t).Exec(t.Context(), "ALTER ROLE "+db.Admin+" NOCREATEROLE"); err != nil {
		t.Fatal(err)
	}
	code, out, errs = command(t, "preflight", "--json", "--config", config)
	if code != 1 || !strings.Contains(out, `"status":"fail"`) || !strings.Contains(errs, "some checks failed") {
		t.Errorf("preflight with an admin that may not make roles: exit %d\n%s%s", code, out, errs)
	}
	if code, _, _ = command(t, "preflight", "nowhere", "--config", config); code != exitUsage {
		t.Errorf("preflight of an unknown integration: exit %d, want %d", code, exitUsage)
	}
	code, out, errs = command(t, "setup-sql", "orders", "--config", config)
	if code != 0 || !strings.Contains(out, "CREATE ROLE hourgate_owner NOLOGIN CREATEROLE") || !strings.Contains(out, "GRANT "+db.Owner+" TO hourgate_owner WITH INHERIT TRUE, SET FALSE;") {
		t.Errorf("setup-sql: exit %d\n%s%s", code, out, errs)
	}
}
