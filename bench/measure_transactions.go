//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// workload is pgbench -S with a protocol and a number of clients.
type workload struct {
	protocol string
	clients  int
}

func (w workload) measure() string { return fmt.Sprintf("transactions/%s/%d", w.protocol, w.clients) }

// measureTransactions runs one-row SELECTs.
func measureTransactions(ctx context.Context, r *rig) error {
	loop, stop, err := r.beside(ctx, copyName)
	if err != nil {
		return err
	}
	defer stop()
	contestants := slices.Concat(r.proxies, loop)
	for _, w := range r.mode.transactions {
		r.sayf("transactions: %s, %s", w.protocol, counted(w.clients))
		err := r.rounds(ctx, contestants, func(ctx context.Context, p *proxy) error {
			t, err := r.runPgbench(ctx, p, pgbench{measure: w.measure(), window: r.mode.window}, "-S", "-M", w.protocol, "-c", strconv.Itoa(w.clients))
			if err != nil {
				return err
			}
			r.results.add(at(r.place, w.measure()), p.name, t.quantities())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Quantities of results.
const (
	quantityRate     = "rate"     // transactions or log-ins a second
	quantityP50      = "p50"      // µs
	quantityP99      = "p99"      // µs
	quantityP999     = "p99.9"    // µs
	quantityCPU      = "cpu"      // µs of the proxy's for one
	quantitySwitches = "switches" // context switches of the proxy for one
)

func (t turn) quantities() map[string]float64 {
	return map[string]float64{
		quantityRate: t.rate, quantityP50: t.p50, quantityP99: t.p99, quantityP999: t.p999, quantityCPU: t.cpu, quantitySwitches: t.switches,
	}
}
