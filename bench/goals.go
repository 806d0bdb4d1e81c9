//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// goal is a row of the table of goals.
type goal struct {
	measure, against, want string
	judge                  func(r *Results) verdict
}

// verdict is what was measured, one part for each workload.
type verdict struct {
	parts []string
	met   []bool
}

// part notes a workload's value, unless it was not measured.
func (v *verdict) part(label string, value float64, format string, met bool) {
	if math.IsNaN(value) {
		return
	}
	text := fmt.Sprintf(format, value)
	if label != "" {
		text = label + " " + text
	}
	v.parts = append(v.parts, text)
	v.met = append(v.met, met)
}

// String of the verdict's second column.
func (v *verdict) outcome() string {
	met := 0
	for _, ok := range v.met {
		if ok {
			met++
		}
	}
	switch {
	case len(v.met) == 0:
		return "not measured"
	case met == len(v.met):
		return "met"
	case len(v.met) == 1:
		return "**missed**"
	}
	return fmt.Sprintf("**missed** in %d of %d", len(v.met)-met, len(v.met))
}

func (v *verdict) measured() string {
	if len(v.parts) == 0 {
		return "–"
	}
	return strings.Join(v.parts, "; ")
}

var goals = slices.Concat(transactionGoals, []goal{
	{"proxy's CPU for a GB", "PgBouncer", "at most 0.45", func(r *Results) (v verdict) {
		for _, b := range bulks {
			value := median(r.ratio(b.measure, quantityPerGB, hourgateName, pgbouncerName))
			v.part(bulkLabel(b.measure), value, "%.2f", value <= 0.45)
		}
		return v
	}},
	{"bulk throughput", "direct", "at least 0.80", func(r *Results) (v verdict) {
		for _, b := range bulks {
			value := median(r.ratio(b.measure, quantitySpeed, hourgateName, directName))
			v.part(bulkLabel(b.measure), value, "%.2f", value >= 0.80)
		}
		return v
	}},
	{"log-ins per second, role warm", "direct", "at least 0.85", func(r *Results) (v verdict) {
		for _, of := range []struct{ label, measure string }{
			{"alone", loginMeasure}, {fmt.Sprintf("beside %d busy sessions", busySessions), busyLoginMeasure},
		} {
			for _, place := range places {
				value := median(r.ratio(at(place, of.measure), quantityRate, hourgateName, directName))
				v.part(of.label+", "+placeTitle(place), value, "%.2f", value >= 0.85)
			}
		}
		return v
	}},
	{"first log-in of a grant, role made", "direct log-in", "at most +15 ms", func(r *Results) (v verdict) {
		value := median(firstAdded(r))
		v.part("", value, "%+.1f ms", value <= 15)
		return v
	}},
	{"memory for an idle session", "", "at most 40 KiB", func(r *Results) (v verdict) {
		for _, sessions := range []int{1000, 10_000} {
			for _, when := range []struct{ label, quantity string }{{"after 1 s", quantityRSS}, {"after 1 min", quantityLater}} {
				value := median(r.values(memoryMeasure(sessions), hourgateName, when.quantity)) / 1024
				v.part(thousands(sessions)+" of them, "+when.label, value, "%.1f KiB", value <= 40)
			}
		}
		return v
	}},
	{"memory for an idle session, 10,000 of them", "PgBouncer", "below 1", func(r *Results) (v verdict) {
		value := median(r.ratio(memoryMeasure(10_000), quantityRSS, hourgateName, pgbouncerName))
		v.part("", value, "%.2f", value < 1)
		return v
	}},
	{"server connections of the gate itself", "", "at most 4 a server", func(r *Results) (v verdict) {
		value := median(r.values(manyIntegrationsMeasure, hourgateName, quantityConnections))
		v.part(fmt.Sprintf("%d integrations", manyIntegrations), value, "%.0f", value <= 4)
		return v
	}},
	// A transaction is five messages, so less than a hundredth is none for any message; the rest of the process works too.
	{"allocations for a transaction of five messages", "", "0", func(r *Results) (v verdict) {
		value := median(r.values(callsMeasure, hourgateName, quantityAllocations))
		v.part("", value, "%.2f", math.Abs(value) < 0.05)
		return v
	}},
	{"system calls for a transaction", "", "2 reads, 2 writes, at most 2 waits", func(r *Results) (v verdict) {
		// Half a call in ten counts as none: timers and the garbage collector have theirs.
		for _, quantity := range []string{quantityReads, quantityWrites, quantityWaits} {
			value := median(r.values(callsMeasure, hourgateName, quantity))
			v.part(quantity, value, "%.2f", value <= 2.05)
		}
		return v
	}},
})

// transactionGoals has a row for each place, quantity and number of clients.
var transactionGoals = func() (goals []goal) {
	for _, of := range []struct {
		name, quantity string
		limits         map[string]map[int]float64 // by place and number of clients
	}{
		{"proxy's CPU for a transaction", quantityCPU, map[string]map[int]float64{
			allCores: {1: 0.90, 8: 0.90, 32: 0.85}, oneCore: {1: 0.90, 8: 0.85, 32: 0.85},
		}},
		{"latency, p99", quantityP99, map[string]map[int]float64{
			allCores: {1: 1.0, 8: 1.1, 32: 1.1}, oneCore: {1: 1.0, 8: 1.1, 32: 1.1},
		}},
		{"latency, p99.9", quantityP999, map[string]map[int]float64{allCores: {8: 1.2}, oneCore: {8: 1.2}}},
	} {
		for _, place := range places {
			for _, clients := range []int{1, 8, 32} {
				limit, ok := of.limits[place][clients]
				if !ok {
					continue
				}
				goals = append(goals, goal{
					fmt.Sprintf("%s, %s, %s", of.name, placeTitle(place), counted(clients)), "PgBouncer's", fmt.Sprintf("at most %.2f", limit),
					func(r *Results) (v verdict) {
						for _, w := range fullMode.transactions {
							if w.clients == clients {
								value := median(r.ratio(at(place, w.measure()), of.quantity, hourgateName, pgbouncerName))
								v.part(w.protocol, value, "%.2f", value <= limit)
							}
						}
						return v
					},
				})
			}
		}
	}
	return goals
}()

// firstAdded is what the first log-in of a grant takes longer than a direct one beside it, in milliseconds.
func firstAdded(r *Results) []float64 {
	return eachRound(r.values(firstMeasure, hourgateName, quantityFirst), r.values(firstMeasure, directName, quantityWarm), difference)
}

func bulkLabel(measure string) string {
	_, label, _ := strings.Cut(measure, "/")
	return strings.NewReplacer("copy", "COPY", "select", "SELECT").Replace(label)
}

// names are the contestants of a measure, in the order of a table's columns.
func (r *Results) names(measure string) []string {
	all := []string{directName, hourgateName, baseName, pgbouncerName, freshName, haproxyName, copyName}
	return slices.DeleteFunc(all, func(name string) bool { return r.Values[measure][name] == nil })
}

func counted(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}
