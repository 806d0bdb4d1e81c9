package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hourgate/hourgate/internal/wholefile"
)

// source is one place that answers by itself: a region of an account, or a file.
type source interface {
	// poll asks for everything. What can't be had now is in the answer as it was last.
	poll(ctx context.Context) answer
	// changed has a value when it pays to ask before pause is over; nil where nothing tells.
	changed() <-chan struct{}
	// pause is the mean time until it should be asked again.
	pause() time.Duration
	close()
}

type answer struct {
	found   []Integration // with the names that they ask for
	leftOut []LeftOut
	status  []Status      // one for each kind
	again   time.Duration // something was missing for the first time: how soon to ask again; 0 if nothing was
}

const (
	// pollTimeout is for one answer, with all its pages and repetitions.
	pollTimeout = 2 * time.Minute
	// confirmPause is how soon a server is looked for again that was missing from an answer.
	confirmPause = 10 * time.Second
	// firstWait is how long what was found first waits for the other sources' first answers.
	firstWait = 15 * time.Second
	// spread is the time between the first questions of two places.
	spread = 20 * time.Millisecond
)

// Options are optional in all parts.
type Options struct {
	Taken    []string              // names that the configuration gives to servers of its own
	Names    string                // file with the names that were given, for the next start. Once reads it only
	Log      *slog.Logger          // gets what fails, and when it works again
	Registry prometheus.Registerer // gets the metrics
}

// Discovery asks all sources of a configuration. Its methods may be called from several goroutines; Watch or Once is
// called once.
type Discovery struct {
	log     *slog.Logger
	metrics *metrics
	sources []source

	mu      sync.Mutex
	names   *namer
	file    *wholefile.Writer // of names
	answers []*answer         // of sources, in their order; nil before the first
	report  Report
}

// New makes the sources. It asks nothing, but reads the AWS SDK's configuration. Entries must have no Problems.
func New(ctx context.Context, entries []Config, o Options) (*Discovery, error) {
	names, err := newNamer(o.Taken, o.Names)
	if err != nil {
		return nil, err
	}
	d := &Discovery{log: o.Log, names: names, file: wholefile.NewWriter(o.Names)}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	d.metrics = newMetrics(o.Registry)
	for n, entry := range entries {
		if problems := entry.Problems(); len(problems) > 0 {
			return nil, fmt.Errorf("discovery[%d]: %w", n, problems)
		}
		entry = entry.WithDefaults()
		if entry.File != nil {
			d.sources = append(d.sources, newFileSource(entry.File, d.log))
			continue
		}
		regions, err := newAWSSources(ctx, entry.AWSRDS)
		if err != nil {
			return nil, fmt.Errorf("discovery[%d]: %w", n, err)
		}
		d.sources = append(d.sources, regions...)
	}
	d.answers = make([]*answer, len(d.sources))
	return d, nil
}

// Watch asks all sources, again and again, until ctx is done. It calls apply with all that is found: first when every
// source has answered or failed, or after a while without those that have not, so that names don't depend on who answers
// first; then whenever something has changed. apply is called by one goroutine at a time, and the list is its own.
func (d *Discovery) Watch(ctx context.Context, apply func([]Integration)) {
	var running, first sync.WaitGroup
	var applying sync.Mutex
	started := false
	update := func() {
		applying.Lock()
		defer applying.Unlock()
		if !started || ctx.Err() != nil {
			return
		}
		found, changed := d.merge()
		d.putNames()
		if changed {
			apply(found)
		}
	}
	running.Go(func() { d.keepNames(ctx) })
	first.Add(len(d.sources))
	for n := range d.sources {
		running.Go(func() { d.follow(ctx, n, sync.OnceFunc(first.Done), update) })
	}
	all := make(chan struct{})
	go func() { first.Wait(); close(all) }()
	select {
	case <-all:
	case <-time.After(firstWait):
	case <-ctx.Done():
	}
	applying.Lock()
	started = true
	applying.Unlock()
	update()
	running.Wait()
	<-all
	if err := d.file.Flush(); err != nil {
		d.log.Error("the names that servers were given are not written down", "error", err)
	}
}

// follow asks the nth source until ctx is done. asked is called after each answer, and update then.
func (d *Discovery) follow(ctx context.Context, n int, asked, update func()) {
	s := d.sources[n]
	defer asked()
	defer s.close()
	sleep(ctx, time.Duration(n)*spread)
	for ctx.Err() == nil {
		wait := time.Duration(float64(s.pause()) * (0.9 + 0.2*rand.Float64()))
		if again := d.ask(ctx, n); again > 0 {
			wait = min(wait, again)
		}
		asked()
		update()
		select {
		case <-ctx.Done():
		case <-s.changed():
		case <-time.After(wait):
		}
	}
}

// Once asks all sources once and reports.
func (d *Discovery) Once(ctx context.Context) Report {
	var running sync.WaitGroup
	for n, s := range d.sources {
		running.Go(func() {
			defer s.close()
			sleep(ctx, time.Duration(n)*spread)
			d.ask(ctx, n)
		})
	}
	running.Wait()
	d.merge()
	return d.Report()
}

// Report returns what is known now.
func (d *Discovery) Report() Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := Report{Integrations: slices.Clone(d.report.Integrations)}
	for _, a := range d.answers {
		if a != nil {
			r.LeftOut = append(r.LeftOut, a.leftOut...)
			r.Status = append(r.Status, a.status...)
		}
	}
	slices.SortFunc(r.LeftOut, func(a, b LeftOut) int {
		return cmp.Or(strings.Compare(a.Place.String(), b.Place.String()), strings.Compare(a.Identifier, b.Identifier))
	})
	return r
}

// ask asks the nth source and keeps its answer.
func (d *Discovery) ask(ctx context.Context, n int) (again time.Duration) {
	within, cancel := context.WithTimeoutCause(ctx, pollTimeout, fmt.Errorf("no answer within %v", pollTimeout))
	defer cancel()
	began := time.Now()
	a := d.sources[n].poll(within)
	if ctx.Err() != nil {
		return 0 // a failure now says nothing
	}
	d.mu.Lock()
	before := d.answers[n]
	d.answers[n] = &a
	d.mu.Unlock()
	d.tell(before, &a)
	d.metrics.asked(a.status, time.Since(began))
	return a.again
}

// tell logs what fails, each failure once, and its end.
func (d *Discovery) tell(before, now *answer) {
	for k, s := range now.status {
		var last error
		if before != nil {
			last = before.status[k].Err
		}
		switch {
		case s.Err != nil && (last == nil || last.Error() != s.Err.Error()):
			d.log.Error("servers could not be looked for, the last answer stays", "place", s.Place.String(), "error", s.Err)
		case s.Err == nil && last != nil:
			d.log.Info("servers can be looked for again", "place", s.Place.String(), "found", s.Found)
		}
	}
}

// merge puts the answers together. changed reports whether that made a difference; the first time it does.
func (d *Discovery) merge() (found []Integration, changed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := make(map[string]bool)
	for _, a := range d.answers {
		if a == nil {
			continue
		}
		for _, i := range a.found {
			if !seen[i.ID] { // two entries may look at the same account
				seen[i.ID] = true
				found = append(found, i)
			}
		}
	}
	d.names.name(found)
	changed = d.report.Integrations == nil || !slices.EqualFunc(found, d.report.Integrations, func(a, b Integration) bool { return a.equal(&b) })
	d.report.Integrations = append([]Integration{}, found...)
	d.metrics.found(found)
	return found, changed
}

// Failures joins what could not be asked.
func (r Report) Failures() error {
	var errs []error
	for _, s := range r.Status {
		if s.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Place, s.Err))
		}
	}
	return errors.Join(errs...)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
