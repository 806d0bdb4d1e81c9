//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// trails are what Hourgate's configuration says of its trail, by the contestant's name. All others have its defaults.
var trails = map[string]string{
	trailOff:        ", statements: false",
	trailStatements: ", parameters: false, results: false",
	trailParameters: ", results: false",
	trailSync:       ", sync: true",
}

// Contestants that differ in what they record.
const (
	trailOff        = "trail-nothing"
	trailStatements = "trail-statements"
	trailParameters = "trail-parameters"
	trailResults    = "trail-results"
	trailSync       = "trail-sync"
)

var trailNames = []string{trailOff, trailStatements, trailParameters, trailResults, trailSync}

var trailWorkloads = []workload{{"prepared", 8}, {"simple", 8}}

func trailMeasure(w workload) string { return fmt.Sprintf("trail/%s/%d", w.protocol, w.clients) }

// measureTrail shows what each kind of record costs.
func measureTrail(ctx context.Context, r *rig) error {
	if !slices.Contains(r.opts.proxies, hourgateName) {
		return nil
	}
	contestants, stop, err := r.beside(ctx, trailNames...)
	if err != nil {
		return err
	}
	defer stop()
	for _, w := range trailWorkloads {
		measure := trailMeasure(w)
		r.sayf("%s", measure)
		err := r.rounds(ctx, contestants, func(ctx context.Context, p *proxy) error {
			t, err := r.runPgbench(ctx, p, pgbench{measure: measure + "/" + p.name, window: r.mode.window}, "-S", "-M", w.protocol, "-c", strconv.Itoa(w.clients))
			if err != nil {
				return err
			}
			r.results.add(at(r.place, measure), p.name, t.quantities())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
