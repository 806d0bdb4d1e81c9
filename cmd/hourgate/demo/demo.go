// Package demo is the demonstration that `hourgate demo` shows: a throw-away PostgreSQL with a gate in front of it, and a story
// whose every step is checked.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hourgate/hourgate/internal/devca"
	"github.com/hourgate/hourgate/internal/pgserver"
	"github.com/hourgate/hourgate/policy"
)

// Run shows the demonstration. It returns an error if a step did not do what it should, and leaves nothing behind. With keep
// everything goes on until ctx is done.
func Run(ctx context.Context, stdout io.Writer, keep bool) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	d := newDemo(stdout, keep)
	// `hourgate demo | head` must not leave a server behind: without the signal the write fails, and stops us.
	signal.Ignore(syscall.SIGPIPE)
	d.out.w = &stopOnError{d.out.w, stop}
	return d.run(ctx)
}

const (
	demoAlice    = "alice@example.com" // has a grant
	demoBob      = "bob@example.com"   // had one until yesterday
	demoAdmin    = "hourgate_admin"    // the gate's user on the server
	demoOwner    = "app_owner"         // owns the database
	demoDatabase = "orders"

	// demoShortGrant is the least that alice gets when she is to be put out; see grantLength.
	demoShortGrant = 12 * time.Second
	demoLongGrant  = time.Hour
)

// demo is one run of the demonstration.
type demo struct {
	out    *demoOutput
	keep   bool
	access policy.Level // of alice's grant; tests show with another one that the demo can fail
	began  time.Time

	folder    string // holds everything; removed at the end
	programs  pgserver.Programs
	authority *devca.Authority
	server    *pgserver.Server
	gate      *demoGate
	passwords map[string]string // of people and of the server's users
	until     time.Time         // the end of alice's grant, a whole second

	role demoRole      // that alice was given
	gone time.Duration // after the grant's end, when the role was no more
}

type demoRole struct {
	name string
	oid  uint32
}

func newDemo(stdout io.Writer, keep bool) *demo {
	return &demo{
		out: newDemoOutput(stdout), keep: keep, access: policy.ReadOnly, began: time.Now(),
		passwords: newDemoPasswords(demoAlice, demoBob, demoCarol, demoAdmin, demoOwner),
	}
}

// run sets everything up, tells the story and leaves nothing behind.
func (d *demo) run(ctx context.Context) error {
	err := d.stage(ctx)
	switch {
	case err == nil && d.keep:
		d.out.say("Stopped and removed.")
	case err == nil:
		d.farewell()
	case ctx.Err() != nil:
		return fmt.Errorf("demo: interrupted: %w", err)
	default:
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// stage puts up the server and the gate around the story, and takes them down in the reverse order.
func (d *demo) stage(ctx context.Context) (err error) {
	if d.programs, err = pgserver.FindPrograms(); err != nil {
		return err
	}
	if err := d.makeFolder(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.folder)) }()
	if d.authority, err = devca.New("Hourgate demo CA", d.folder, 24*time.Hour); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}

	if d.server, err = pgserver.Start(ctx, pgserver.Config{
		Programs: d.programs, Authority: d.authority, Folder: filepath.Join(d.folder, "postgresql"),
	}); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	defer func() { err = errors.Join(err, d.server.Stop()) }()
	if err := fillDemoServer(ctx, d.server, d.passwords); err != nil {
		return fmt.Errorf("filling the database: %w", err)
	}

	if d.gate, err = d.openGate(ctx); err != nil {
		return fmt.Errorf("opening the gate: %w", err)
	}
	defer func() { err = errors.Join(err, d.gate.close()) }()

	if err = d.story(ctx); err != nil && ctx.Err() == nil {
		d.showLog()
	}
	return err
}

// story is what is shown, in order. Each step checks what it shows.
func (d *demo) story(ctx context.Context) error {
	d.introduce()
	if err := d.showRole(ctx); err != nil {
		return err
	}
	if err := d.showRows(ctx); err != nil {
		return err
	}
	if err := d.showRefusedWrite(ctx); err != nil {
		return err
	}
	if err := d.showRefusedPerson(ctx); err != nil {
		return err
	}
	if err := d.showAsking(ctx); err != nil {
		return err
	}
	if d.keep {
		return d.leaveOpen(ctx)
	}
	if err := d.showEnd(ctx); err != nil {
		return err
	}
	if err := d.showNothingLeft(ctx); err != nil {
		return err
	}
	return d.showTrail()
}

// grantLength gives a machine on which everything takes long the time to get to the end of the grant.
func (d *demo) grantLength() time.Duration {
	if d.keep {
		return demoLongGrant
	}
	return max(demoShortGrant, 4*time.Since(d.began))
}

func (d *demo) introduce() {
	d.out.title("Hourgate: an access gate for PostgreSQL that opens by the hour")
	d.out.sayf("PostgreSQL %s runs on port %d, for this demo alone. It has a database %s, which %s owns, and a user %s, "+
		"who may create roles and is not a superuser.", d.server.Version, d.server.Port, demoDatabase, demoOwner, demoAdmin)
	d.out.sayf("Hourgate runs on port %d, in front of it. Its policy lets %s read for %s, until %s UTC.",
		d.gate.port, demoAlice, inWords(d.grantLeft()), clockTime(d.until))
	d.out.say("People connect to Hourgate with the psql that they have:")
	d.out.command(demoVariable("gate", d.gateAddress()))
}

// grantLeft is what is left of alice's grant, in whole seconds.
func (d *demo) grantLeft() time.Duration { return time.Until(d.until).Round(time.Second) }

func (d *demo) farewell() {
	d.out.title("Done")
	d.out.sayf("Every step was checked, in %s: roles made for one grant each, the first gone %s after its end; one write and one "+
		"person refused; a request asked, decided, extended and ended. The server, the gate and their files are removed.",
		inWords(time.Since(d.began).Round(time.Second)), inWords(d.gone))
	d.out.sayf("To try it by hand:             %s demo --keep", os.Args[0])
	d.out.say("For a PostgreSQL of your own:  hourgate init, as README.md says")
}

// leaveOpen says how to go on by hand, and waits.
func (d *demo) leaveOpen(ctx context.Context) error {
	if err := d.showTrail(); err != nil {
		return err
	}
	d.out.title("Now you")
	d.out.say("All of it keeps running until you press Ctrl-C, which stops and removes it. In another terminal:")
	d.out.suggest("Connect as Alice, who may read until "+clockTime(d.until)+" UTC:", d.pasteable(demoAlice, d.gateAddress()))
	d.out.suggest("As Bob, who has no grant now:", d.pasteable(demoBob, d.gateAddress()))
	d.out.suggest("As the database's owner, past the gate, to see which roles there are:", d.pasteable(demoOwner, d.serverAddress()))
	d.out.suggest("Watch the trail:", "tail -f "+d.file("trail.jsonl"))
	d.out.suggest("Revoke Alice's access while she is connected: delete the grant "+demoGrantName+" from the policy, and save. "+
		"Give Bob one in the same way:", "${EDITOR:-vi} "+d.file("policy.yaml"))
	d.out.suggest("Look at the other files, such as config.yaml and hourgate.log, and at the metrics:",
		"ls -l "+d.folder, "curl http://"+d.gate.ops+"/metrics")

	select {
	case <-ctx.Done():
		d.out.say("")
		return nil
	case err := <-d.gate.done:
		d.gate.done <- err // close reads it too
		return errors.New("the gate ended by itself")
	case <-d.server.Exited():
		return errors.New("the server ended by itself")
	}
}
