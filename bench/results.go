//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Results are all that was measured, and where.
type Results struct {
	Mode         string
	Date         string
	CPU          string
	Cores        int
	Kernel       string
	Versions     map[string]string
	Command      string   // what bench was called with
	Load         string   // of the machine in the minute before
	Failed       []string // measures, each with what went wrong
	GoBenchmarks []goBenchmark
	// Values of the rounds, by measure, contestant and quantity.
	Values map[string]map[string]map[string][]float64
}

func newResults(ctx context.Context, r *rig) *Results {
	results := &Results{
		Mode: r.mode.name, Date: time.Now().UTC().Format(time.DateOnly),
		CPU: cpuModel(), Cores: runtime.NumCPU(), Kernel: kernelVersion(),
		Command: strings.Join(os.Args[1:], " "), Load: loadBefore(),
		Versions: map[string]string{"Go": strings.TrimPrefix(runtime.Version(), "go")},
		Values:   make(map[string]map[string]map[string][]float64),
	}
	for name, args := range map[string][]string{
		"PgBouncer": {"pgbouncer", "--version"}, "HAProxy": {"haproxy", "-v"}, "strace": {"strace", "--version"},
		"Hourgate": {"git", "describe", "--tags", "--always", "--dirty"},
	} {
		program, err := findProgram(args[0])
		if name == "PgBouncer" {
			program, err = findPgBouncer()
		}
		if err != nil {
			continue
		}
		out, _ := exec.CommandContext(ctx, program, args[1:]...).Output() // without, the version is not known
		line, _, _ := bytes.Cut(out, []byte("\n"))
		if name == "Hourgate" {
			results.Versions[name] = strings.TrimSpace(string(line))
		} else if version := versionPattern.Find(line); version != nil {
			results.Versions[name] = string(version)
		}
	}
	return results
}

var versionPattern = regexp.MustCompile(`\d+(\.\d+)+`)

// add notes the quantities of one round.
func (r *Results) add(measure, contestant string, quantities map[string]float64) {
	if r.Values[measure] == nil {
		r.Values[measure] = make(map[string]map[string][]float64)
	}
	if r.Values[measure][contestant] == nil {
		r.Values[measure][contestant] = make(map[string][]float64)
	}
	for quantity, value := range maps.All(quantities) {
		r.Values[measure][contestant][quantity] = append(r.Values[measure][contestant][quantity], value)
	}
}

// values of the rounds; none if it was not measured.
func (r *Results) values(measure, contestant, quantity string) []float64 {
	return r.Values[measure][contestant][quantity]
}

// ratio is a contestant's quantity in terms of another's in the same round.
func (r *Results) ratio(measure, quantity, contestant, to string) []float64 {
	return eachRound(r.values(measure, contestant, quantity), r.values(measure, to, quantity), quotient)
}

func (r *Results) save(file string) error {
	content, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(content, '\n'), 0o644) //nolint:gosec // figures for everybody
}

func loadResults(file string) (*Results, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(Results)
	return r, json.Unmarshal(content, r)
}

func cpuModel() string {
	content, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(content)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}

// loadBefore is how many processes wanted a core in the minute before, on average: what else this machine does.
func loadBefore() string {
	content, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(content), " ")
	return load
}

// kernelVersion leaves out what a distribution or a provider puts behind the number.
func kernelVersion() string {
	content, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + string(versionPattern.Find(content))
}
