package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// demoCall is one run of psql. Its SQL has no character that means something to a shell within double quotes, so that it
// is shown as it could be typed.
type demoCall struct {
	user       string
	direct     bool   // to the server, past the gate
	database   string // instead of the address's
	options    string
	statements []string // one -c each
	input      string   // standard input, instead of statements
	timeout    time.Duration
}

const demoCallTimeout = 20 * time.Second

// demoAddress is a connection string but for the user.
type demoAddress struct {
	port     int
	database string
	ca       string
}

// String is the address in two lines, which are as good as one to libpq, and fit a terminal.
func (a demoAddress) String() string {
	return fmt.Sprintf("host=localhost port=%d dbname=%s sslmode=verify-full\n  sslrootcert=%s", a.port, a.database, a.ca)
}

func (d *demo) gateAddress() demoAddress {
	return demoAddress{port: d.gate.port, database: demoIntegration, ca: d.authority.CertFile}
}

func (d *demo) serverAddress() demoAddress {
	return demoAddress{port: d.server.Port, database: demoDatabase, ca: d.authority.CertFile}
}

// demoVariable is how a person would keep a connection string in a shell.
func demoVariable(name string, a demoAddress) string { return fmt.Sprintf("%s=\"%s\"", name, a) }

// pasteable is a command line with everything in it.
func (d *demo) pasteable(user string, a demoAddress) string {
	psql := "psql"
	if _, err := exec.LookPath(psql); err != nil {
		psql = d.programs.Psql
	}
	return fmt.Sprintf("PGPASSWORD=%s %s \"user=%s\n  %s\"", d.passwords[user], psql, user, a)
}

// psql shows the command line, runs it and shows what it prints. An exit code other than 0 is not an error, since
// refusals are to be shown: what was printed says more.
func (d *demo) psql(ctx context.Context, call demoCall) (*demoCapture, error) {
	d.out.command(call.shown())
	timeout := call.timeout
	if timeout == 0 {
		timeout = demoCallTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	capture := &demoCapture{out: d.out}
	cmd := d.psqlCommand(ctx, call)
	cmd.Stdout, cmd.Stderr = capture, capture
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return capture, fmt.Errorf("psql did not end within %v", timeout)
	case ctx.Err() != nil:
		return capture, context.Cause(ctx)
	case err != nil && !errors.As(err, &exit):
		return capture, fmt.Errorf("running psql: %w", err)
	}
	return capture, nil
}

func (d *demo) psqlCommand(ctx context.Context, call demoCall) *exec.Cmd {
	address := d.gateAddress()
	if call.direct {
		address = d.serverAddress()
	}
	args := []string{"-X", fmt.Sprintf("%s %suser=%s", address, call.dbname(), call.user)}
	args = append(args, strings.Fields(call.options)...)
	for _, statement := range call.statements {
		args = append(args, "-c", statement)
	}
	cmd := exec.CommandContext(ctx, d.programs.Psql, args...)
	cmd.Dir = d.folder
	cmd.Env = d.psqlEnvironment(call.user)
	cmd.Stdin = strings.NewReader(call.input)
	cmd.WaitDelay = time.Second
	// A group of its own: the terminal's Ctrl-C is for us, and ctx for psql.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// psqlEnvironment is ours without what makes psql behave in a way of this person's own.
func (d *demo) psqlEnvironment(user string) []string {
	var env []string
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "PG") && !strings.HasPrefix(setting, "LC_") {
			env = append(env, setting)
		}
	}
	// The address, because libpq would report that it tried ::1 first. English, because the output is looked at.
	return append(env, "PGPASSWORD="+d.passwords[user], "PGHOSTADDR=127.0.0.1", "LC_ALL=C", "HOME="+d.folder)
}

// dbname is what a connection string says where the database is another: the last one counts.
func (c demoCall) dbname() string {
	if c.database == "" {
		return ""
	}
	return "dbname=" + c.database + " "
}

// shown is the call as a person would type it, with the address in a variable.
func (c demoCall) shown() string {
	variable := "$gate"
	if c.direct {
		variable = "$server"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "PGPASSWORD=... psql \"%s %suser=%s\"", variable, c.dbname(), c.user)
	if c.options != "" {
		b.WriteString(" " + c.options)
	}
	for _, statement := range c.statements {
		b.WriteString(c.breakBefore() + "-c \"" + statement + "\"")
	}
	if c.input != "" {
		b.WriteString(" <<< \\\n  \"" + c.input + "\"")
	}
	return b.String()
}

// breakBefore begins a new line when one line is too short for all.
func (c demoCall) breakBefore() string {
	if len(c.statements) > 1 || len(c.statements[0])+len(c.database) > 25 {
		return " \\\n  "
	}
	return " "
}
