//go:build linux

// Bench measures Hourgate against a direct connection, PgBouncer and HAProxy, on this machine and without anything that
// runs on it already: it starts PostgreSQL and the proxies itself and removes them again. Client, proxy and server have all
// cores first, as people run them. Then they share one core, so that all CPU time of a transaction counts, and bench itself
// runs on another. The contestants take turns within each round, and what is compared are the ratios within a round: the
// machine's mood cancels out.
//
// `make bench` runs it for ten minutes, `make bench BENCH=full` for the record. It needs Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	full     bool
	only     []string // measures; empty: all
	cores    []string // places; empty: all
	proxies  []string
	rounds   int // 0: the mode's
	out      string
	save     string
	render   string
	hourgate string
	base     string
	nice     int
	profile  string
	stub     string // role of a child process, see stub.go
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var only, cores, proxies string
	var names []string
	for _, m := range slices.Concat(measures, growthMeasures) {
		names = append(names, m.name)
	}
	flags.BoolVar(&o.full, "full", false, "measure for the record, about half an hour, and not for ten minutes")
	flags.StringVar(&only, "only", "", "measures, with commas between: "+strings.Join(names, ", "))
	flags.StringVar(&cores, "cores", "", "on what to measure, with commas between: "+strings.Join(places, ", ")+" (some measures are for one only)")
	flags.StringVar(&proxies, "proxies", "hourgate,pgbouncer,haproxy", "proxies, with commas between")
	flags.IntVar(&o.rounds, "rounds", 0, "rounds of each measure, if not the mode's")
	flags.StringVar(&o.out, "out", "", "write the report to this `file`, and not to standard output")
	flags.StringVar(&o.save, "save", "", "write what was measured to this `file`, as JSON for -render")
	flags.StringVar(&o.render, "render", "", "measure nothing, report what -save wrote to this `file`")
	flags.StringVar(&o.hourgate, "hourgate", "", "the `program` to measure, if not one built from this checkout")
	flags.StringVar(&o.base, "base", "", "another build of Hourgate, a `program` that takes part as \"base\"")
	flags.IntVar(&o.nice, "nice", 0, "niceness of all; below 0, as root, it helps where others work on the machine too")
	flags.StringVar(&o.profile, "profile", "", "write CPU profiles of Hourgate to this `folder`")
	flags.StringVar(&o.stub, "stub", "", "for bench itself: be a server that holds sessions")
	if err := flags.Parse(args); err != nil {
		return o, flag.ErrHelp // Parse has said what is wrong
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	var err error
	if o.only, err = choose("-only", only, names); err != nil {
		return o, err
	}
	if o.cores, err = choose("-cores", cores, places); err != nil {
		return o, err
	}
	o.proxies, err = choose("-proxies", proxies, []string{hourgateName, pgbouncerName, haproxyName})
	if o.base != "" {
		o.proxies = append(o.proxies, baseName)
	}
	return o, err
}

// choose splits a list of names, each of which has to be one of known.
func choose(flag, list string, known []string) ([]string, error) {
	var chosen []string
	for name := range strings.SplitSeq(list, ",") {
		switch {
		case name == "":
		case slices.Contains(known, name):
			chosen = append(chosen, name)
		default:
			return nil, fmt.Errorf("%s: no %q; there are %s", flag, name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

func (o *options) wants(m measure, place string) bool {
	return (len(o.only) == 0 || slices.Contains(o.only, m.name)) && (len(o.cores) == 0 || slices.Contains(o.cores, place)) &&
		slices.Contains(m.places, place)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	if o.stub != "" {
		return runStub(ctx, o.stub)
	}
	if err := takePriority(o.nice); err != nil {
		return err
	}
	defer leaveGroup()
	var results *Results
	if o.render != "" {
		results, err = loadResults(o.render)
	} else {
		results, err = measureAll(ctx, &o, stderr)
	}
	if results == nil {
		return err
	}
	if o.save != "" {
		err = errors.Join(err, results.save(o.save))
	}
	if ctx.Err() != nil {
		return err
	}
	report := render(results, notes)
	if o.out != "" {
		return errors.Join(err, os.WriteFile(o.out, []byte(report), 0o644)) //nolint:gosec // a document for everybody
	}
	_, writeErr := io.WriteString(stdout, report)
	return errors.Join(err, writeErr)
}

// measureAll brings everything up, measures, and takes it down, whatever happens.
func measureAll(ctx context.Context, o *options, stderr io.Writer) (results *Results, err error) {
	r, err := newRig(ctx, o, stderr)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.start(ctx); err != nil {
		return nil, interrupted(ctx, err)
	}
	var errs []error
	for _, list := range [][]measure{measures, growthMeasures} {
		for _, place := range places {
			for _, m := range list {
				if ctx.Err() != nil || !o.wants(m, place) {
					continue
				}
				if err := r.measure(ctx, m, place); err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
	return r.results, interrupted(ctx, errors.Join(errs...))
}

// measureLimit ends a measure that hangs. The longest takes some six minutes.
const measureLimit = 10 * time.Minute

// measure runs one measure and saves what there is then. One that fails is noted in the results, and takes no other with it:
// the next finds proxies that have just been started.
func (r *rig) measure(ctx context.Context, m measure, place string) error {
	limited, cancel := context.WithTimeout(ctx, measureLimit)
	defer cancel()
	began := time.Now()
	err := r.move(limited, place)
	if err == nil {
		err = m.run(limited, r)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	title := m.name + ", " + placeTitle(place)
	r.sayf("%s took %.0f s", title, time.Since(began).Seconds())
	if err != nil {
		r.sayf("%s: %v", title, err)
		r.place = ""
		line, _, _ := strings.Cut(err.Error(), "\n")
		r.results.Failed = append(r.results.Failed, title+": "+line)
		err = fmt.Errorf("measuring %s: %w", title, err)
	}
	if r.opts.save != "" {
		err = errors.Join(err, r.results.save(r.opts.save))
	}
	return err
}

// interrupted says so in place of what a signal made of the programs under way.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// measure is what -only names.
type measure struct {
	name   string
	places []string // where it is taken
	run    func(context.Context, *rig) error
}

var pinnedOnly, unpinnedOnly = []string{oneCore}, []string{allCores}

// measures are in the order in which they run, on all cores first.
var measures = []measure{
	{"transactions", places, measureTransactions},
	{"busy-login", places, measureBusyLogin},
	{"trail", places, measureTrail},
	{"login", places, measureLogin},
	{"bulk", pinnedOnly, measureBulk},
	{"calls", pinnedOnly, measureCalls},
	{"memory", pinnedOnly, measureMemory},
	{"go", pinnedOnly, measureGo},
}

// growthMeasures come last, since they leave thousands of roles on the server.
var growthMeasures = []measure{
	{"many-logins", unpinnedOnly, measureManyLogins},
	{"many-people", unpinnedOnly, measureManyPeople},
	{"many-integrations", unpinnedOnly, measureManyIntegrations},
	{"many-ends", unpinnedOnly, measureManyEnds},
}
