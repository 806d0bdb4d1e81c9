package first

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/internal/verifier"
	"github.com/hourgate/hourgate/roles/survey"
)

// OptionsError is an answer or a flag that is missing or can't be used.
type OptionsError struct{ error }

func (e *OptionsError) Unwrap() error { return e.error }

// lookTimeout is for everything that is done on the server.
const lookTimeout = time.Minute

// Run writes the files and, if that is wanted, runs the SQL for the admin. It tells what it does on out.
func Run(ctx context.Context, o Options, ask *Asker, out io.Writer) (Result, error) {
	if err := taken(o.Folder); err != nil {
		return Result{}, err
	}
	if err := o.complete(ask); err != nil {
		return Result{}, &OptionsError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	s, err := o.look(ctx, ask, out)
	if err != nil {
		return Result{}, err
	}
	files, err := newFiles(&o, time.Now())
	if err != nil {
		return Result{}, err
	}
	adminVerifier, err := verifier.New(files.adminPassword, verifier.DefaultIterations)
	if err != nil {
		return Result{}, err
	}
	files.sql = s.SQL(survey.Admin{Name: o.AdminUser, Verifier: adminVerifier, NewOwner: o.NewOwner})
	if err := files.write(); err != nil {
		return Result{}, err
	}
	files.tell(out)
	if err := o.apply(ctx, ask, files.sql, out); err != nil {
		return Result{}, errors.Join(err, files.remove(), errors.New("the files were removed again"))
	}
	return Result{options: o, files: files, Applied: o.Apply, ConfigFile: filepath.Join(o.Folder, "config.yaml")}, nil
}

// look surveys the server, if there is a DBA to do it as.
func (o *Options) look(ctx context.Context, ask *Asker, out io.Writer) (*survey.Survey, error) {
	if o.DBAUser == "" {
		s := &survey.Survey{Version: o.Major * 10000, DBA: "a DBA", Database: o.Database, CanSignal: true}
		for _, owner := range o.Owners {
			s.Owners = append(s.Owners, survey.Owner{Name: owner, Grantable: true})
		}
		return s, nil
	}
	if o.DBAPassword == "" {
		password, err := ask.secret("Password of " + o.DBAUser)
		if err != nil {
			return nil, err
		}
		o.DBAPassword = password
	}
	server, err := upstream.New(o.server())
	if err != nil {
		return nil, err
	}
	s, err := survey.Look(ctx, server, o.dba(), o.Database, o.AdminUser)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "looked at  PostgreSQL %s on %s, database %s, as %s%s\n", s.Release, server.Address(), s.Database, s.DBA, map[bool]string{true: ", a superuser"}[s.Super])
	for _, owner := range s.Owners {
		fmt.Fprintf(out, "           %s owns %d object(s), such as %s%s\n", owner.Name, owner.Objects, owner.Example, stands(owner))
	}
	return s, o.judge(s, ask)
}

func stands(o survey.Owner) string {
	switch {
	case o.Grantable:
		return ""
	case o.Super:
		return "; a superuser, in which nobody can be made a member safely"
	case o.Self:
		return "; from PostgreSQL 16 on nobody can make others a member of the role that they are"
	}
	return "; this DBA may not make others a member of it"
}

// judge says what stands in the way of an admin on this server.
func (o *Options) judge(s *survey.Survey, ask *Asker) error {
	switch {
	case s.Version < 130000:
		return fmt.Errorf("PostgreSQL %s is older than 13, which is the oldest that is supported", s.Release)
	case s.Replica:
		return errors.New("this is a read replica: name the writer")
	case !s.CreateRole && !s.Super:
		return fmt.Errorf("%s may not make roles: name a DBA who may", s.DBA)
	case s.AdminExists:
		return fmt.Errorf("the server has a role %q already, maybe another gate's: choose another with --admin-user, or drop it", o.AdminUser)
	}
	if !s.CanGrantCreator {
		return fmt.Errorf("the server has a role hourgate_owner already, and %s may not grant it: name the DBA who made it, or a superuser", s.DBA)
	}
	movable := s.Movable()
	if len(movable) == 0 || o.NewOwner != "" {
		return nil
	}
	if ask.in == nil {
		return fmt.Errorf("objects such as %s belong to %s, in which Hourgate's admin can't be made a member: name a role that is to own them with --new-owner; it is made if it is not there, and setup.sql hands them over",
			movable[0].Example, movable[0].Name)
	}
	owner, err := ask.text("--new-owner", fmt.Sprintf("Which role shall own the objects of %s? It is made if it is not there", movable[0].Name), o.Database+"_owner")
	o.NewOwner = owner
	return err
}

func (o *Options) dba() survey.DBA { return survey.DBA{User: o.DBAUser, Password: o.DBAPassword} }

// apply runs the SQL if it was asked for, or if the person says so now.
func (o *Options) apply(ctx context.Context, ask *Asker, sql string, out io.Writer) error {
	if !o.Apply && o.DBAUser != "" {
		run, err := ask.yes(fmt.Sprintf("Run %s as %s now?", filepath.Join(o.Folder, "setup.sql"), o.DBAUser))
		if err != nil {
			return err
		}
		o.Apply = run
	}
	if !o.Apply {
		return nil
	}
	server, err := upstream.New(o.server())
	if err != nil {
		return err
	}
	if err := survey.Apply(ctx, server, o.dba(), o.Database, sql); err != nil {
		return err
	}
	fmt.Fprintf(out, "ran        setup.sql as %s\n", o.DBAUser)
	return nil
}

// tell lists what was written.
func (f *files) tell(out io.Writer) {
	o := f.options
	for _, line := range [][2]string{
		{"config.yaml", "where people connect, and where their connections go"},
		{"policy.yaml", fmt.Sprintf("%s may %s on %s until %s", o.User, o.Access, o.Name, f.until.Format("2006-01-02 15:04 MST"))},
		{"secret.json", "the name and password of the admin user " + o.AdminUser},
		{"setup.sql", "makes that user; for a DBA"},
		{"server.crt", fmt.Sprintf("the gate's certificate, for %s, good for 90 days; its key is server.key", o.GateHost)},
		{"ca.crt", "the authority that it is from, for clients"},
	} {
		fmt.Fprintf(out, "wrote      %s: %s\n", filepath.Join(o.Folder, line[0]), line[1])
	}
}

// Result is what Run has done.
type Result struct {
	ConfigFile string
	Applied    bool // the admin is there

	options Options
	files   *files
}

// NextSteps says what the person does now.
func (r Result) NextSteps(out io.Writer) {
	step := func(what, command string) { fmt.Fprintf(out, "\n%s\n\n    %s\n", what, command) }
	if !r.Applied {
		o := r.options
		user := o.DBAUser
		if user == "" {
			user = "DBA"
		}
		step("Let a DBA read and run the admin's SQL:",
			shell("psql", fmt.Sprintf("host=%s port=%d dbname=%s user=%s", o.Host, o.Port, o.Database, user), "-v", "ON_ERROR_STOP=1", "-f", filepath.Join(o.Folder, "setup.sql")))
		step("See what the server says to it:", shell("hourgate", "preflight", "--config", r.ConfigFile))
	}
	step("Start the gate:", shell("hourgate", "serve", "--config", r.ConfigFile))
	step(fmt.Sprintf("Connect, as %s with the password %s%s:", r.options.User, r.password(), map[bool]string{true: " (it is shown this once)"}[r.options.UserPassword == ""]), r.files.psql())
	fmt.Fprintf(out, "\nWhat is not as it should be: %s\n", shell("hourgate", "doctor", "--config", r.ConfigFile))
}

// password is shown if it was made up here, because nobody knows it otherwise.
func (r Result) password() string {
	if r.options.UserPassword != "" {
		return "that you gave"
	}
	return strings.TrimSpace(r.files.userPassword)
}
