//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden report anew")

func TestParseOptions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args    string
		only    []string
		proxies []string
		err     string
	}{
		{args: "", proxies: []string{"hourgate", "pgbouncer", "haproxy"}},
		{args: "-only bulk,login -proxies haproxy", only: []string{"bulk", "login"}, proxies: []string{"haproxy"}},
		{args: "-base old -proxies hourgate", proxies: []string{"hourgate", "base"}},
		{args: "-cores none", err: `-cores: no "none"; there are all, one`},
		{args: "-only bulk,logins", err: `-only: no "logins"; there are transactions, busy-login, `},
		{args: "-proxies direct", err: `-proxies: no "direct"`},
		{args: "-full now", err: `unexpected argument "now"`},
		{args: "-fast", err: "help requested"},
	} {
		o, err := parseOptions(strings.Fields(tt.args), new(strings.Builder))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got error %v, want %s", tt.args, err, tt.err)
			}
			continue
		}
		if err != nil || !slices.Equal(o.only, tt.only) || !slices.Equal(o.proxies, tt.proxies) {
			t.Errorf("%s: got only %v, proxies %v, error %v", tt.args, o.only, o.proxies, err)
		}
	}
}

// A turn that fails says whose it was, and what that has logged.
func TestBlame(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("out of descriptors\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &proxy{name: copyName, process: &process{log: log}}
	if got, want := p.blame(io.ErrUnexpectedEOF).Error(), "copy: unexpected EOF; its log:\nout of descriptors"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestStatistics(t *testing.T) {
	t.Parallel()
	var hundred []int
	for i := 1; i <= 100; i++ {
		hundred = append(hundred, i)
	}
	for _, tt := range []struct {
		values []int
		p      float64
		want   int
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred, 0, 1},
		{[]int{7}, 99, 7},
		{[]int{1, 2, 3}, 50, 2},
	} {
		if got := percentile(tt.values, tt.p); got != tt.want {
			t.Errorf("percentile %v of %d values: got %d, want %d", tt.p, len(tt.values), got, tt.want)
		}
	}
	for _, tt := range []struct{ values, want []float64 }{
		{[]float64{3, 1, 2}, []float64{2, 1, 3}},
		{[]float64{4, 1, 2, 3}, []float64{2.5, 1, 4}},
		{[]float64{5}, []float64{5, 5, 5}},
	} {
		if s := spreadOf(tt.values); !slices.Equal([]float64{s.median, s.low, s.high}, tt.want) {
			t.Errorf("spread of %v: got %v, want %v", tt.values, s, tt.want)
		}
	}
	if s := spreadOf(nil); !math.IsNaN(s.median) {
		t.Errorf("spread of nothing: got %v", s)
	}
	if got := eachRound([]float64{2, 9, 8}, []float64{1, 3}, quotient); !slices.Equal(got, []float64{2, 3}) {
		t.Errorf("quotients: got %v", got)
	}
}

func TestParseCores(t *testing.T) {
	t.Parallel()
	for list, want := range map[string][]int{"0": {0}, "0-2,5": {0, 1, 2, 5}, "": nil, "1-x": nil} {
		got, err := parseCores(list)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: got %v, %v, want %v", list, got, err, want)
		}
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for value, want := range map[float64]string{
		0: "0.00", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 1234.5: "1,235", 1234567: "1,234,567", 1002003: "1,002,003",
		-4321: "-4,321", math.NaN(): "–", math.Inf(1): "–",
	} {
		if got := number(value); got != want {
			t.Errorf("%v: got %s, want %s", value, got, want)
		}
	}
}

func TestParsePgbenchLine(t *testing.T) {
	t.Parallel()
	got, err := parsePgbenchLine("3 199 2241 0 1700000000 995779")
	want := transaction{end: time.Unix(1700000000, 995779000), latency: 2241 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, line := range []string{"", "3 199 2241 0 1700000000", "3 199 skipped 0 1700000000 995779"} {
		if _, err := parsePgbenchLine(line); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
}

// A transaction each millisecond for a second, a sample each ten: the window leaves the first 100 ms and the last 10 out.
func TestEvaluate(t *testing.T) {
	t.Parallel()
	began := time.Unix(1700000000, 0)
	var done []transaction
	for i := range 1000 {
		latency := 100 * time.Microsecond
		if i%50 == 0 {
			latency = time.Millisecond
		}
		done = append(done, transaction{end: began.Add(time.Duration(i) * time.Millisecond), latency: latency})
	}
	var samples []usage
	for i := range 120 { // each log-in takes the proxy long, before the first transaction and after the last
		cpu := time.Duration(i) * 100 * time.Microsecond
		if i < 5 || i > 100 {
			cpu += time.Second
		}
		samples = append(samples, usage{at: began.Add(time.Duration(10*i) * time.Millisecond), cpu: cpu, switches: 20 * i})
	}
	got, err := evaluate(done, samples)
	if err != nil {
		t.Fatal(err)
	}
	want := turn{rate: 1000, p50: 100, p99: 1000, p999: 1000, cpu: 10, switches: 2}
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(turn{}), near); diff != "" {
		t.Errorf("turn (-want +got):\n%s", diff)
	}
	for name, few := range map[string][]transaction{"none": nil, "too few": done[:50], "one": done[:1]} {
		if got, err := evaluate(few, samples); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
}

const straceTable = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 52.94    0.000018           9      4000      2000 read
 20.00    0.000007           7      2000           write
 10.00    0.000003           3      2100           epoll_pwait
  9.00    0.000003           3        12         1 futex
  8.06    0.000003           3         5           nanosleep
------ ----------- ----------- --------- --------- ----------------
100.00    0.000034           4      8117      2001 total
`

func TestParseStrace(t *testing.T) {
	t.Parallel()
	got, err := parseStrace(straceTable)
	if want := (calls{reads: 4000, failed: 2000, writes: 2000, waits: 2100, others: 17}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, table := range []string{"", "strace: attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted", strings.Replace(straceTable, "4000", "many", 1)} {
		if _, err := parseStrace(table); err == nil {
			t.Errorf("%q was taken", table)
		}
	}
}

func TestParseGoBenchmarks(t *testing.T) {
	t.Parallel()
	got := parseGoBenchmarks(`goos: linux
pkg: github.com/hourgate/hourgate/policy
BenchmarkDecide/integration_and_database-2         	  500000	       213.5 ns/op	      48 B/op	       2 allocs/op
PASS
ok  	github.com/hourgate/hourgate/policy	1.2s
pkg: github.com/hourgate/hourgate/proxy
BenchmarkScan    	 1000	      1000 ns/op	 900.00 MB/s	       0 B/op	       0 allocs/op
`)
	want := []goBenchmark{{"policy Decide/integration and database", 213.5, 48, 2}, {"proxy Scan", 1000, 0, 0}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("benchmarks (-want +got):\n%s", diff)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	results, err := loadResults("testdata/results.json")
	if err != nil {
		t.Fatal(err)
	}
	got := render(results, "## Goals\n\nWhat is missed.\n\n## Growth\n\nWhat grows.\n")
	const golden = "testdata/report.md"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("report, which -update writes anew (-want +got):\n%s", diff)
	}
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, "|") && strings.Contains(line, "NaN") {
			t.Errorf("a figure is missing: %s", line)
		}
	}
}

// What people write to the figures survives a new record, in its section.
func TestNotes(t *testing.T) {
	t.Parallel()
	const notes = "Of this file.\n\n## Goals\n\nOne.\n\n### Two\n\nThree.\n\n## Empty\n\n## Last\n\nFour.\n"
	for section, want := range map[string]string{"Goals": "One.\n\n### Two\n\nThree.\n\n", "Empty": "", "Last": "Four.\n\n", "Goal": "", "": ""} {
		if got := noteOf(notes, section); got != want {
			t.Errorf("%s: got %q, want %q", section, got, want)
		}
	}
}

// All notes there are have a section that takes them.
func TestNotesAreTaken(t *testing.T) {
	t.Parallel()
	results, err := loadResults("testdata/results.json")
	if err != nil {
		t.Fatal(err)
	}
	got := render(results, notes)
	for _, section := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllStringSubmatch(notes, -1) {
		if text := noteOf(notes, section[1]); text == "" || !strings.Contains(got, text) {
			t.Errorf("nothing of %s is in the report", section[1])
		}
	}
}

// A measure that fails is noted, what there is is saved, and the next one has another try at everything.
func TestMeasureThatFails(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "results.json")
	r := &rig{opts: &options{save: file}, place: oneCore, stderr: io.Discard, results: &Results{Values: make(map[string]map[string]map[string][]float64)}}
	err := r.measure(t.Context(), measure{"calls", pinnedOnly, func(context.Context, *rig) error {
		r.results.add(callsMeasure, hourgateName, map[string]float64{quantityReads: 2})
		return errors.New("unexpected EOF; its log:\nout of descriptors")
	}}, oneCore)
	if err == nil || !strings.Contains(err.Error(), "out of descriptors") {
		t.Errorf("got error %v", err)
	}
	saved, err := loadResults(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"calls, one core: unexpected EOF; its log:"}; !slices.Equal(saved.Failed, want) {
		t.Errorf("failed: got %q, want %q", saved.Failed, want)
	}
	if got := saved.values(callsMeasure, hourgateName, quantityReads); !slices.Equal(got, []float64{2}) || r.place != "" {
		t.Errorf("got %v of calls, at place %q", got, r.place)
	}
	if got := render(saved, ""); !strings.Contains(got, "- calls, one core: unexpected EOF") {
		t.Errorf("got report:\n%s", got)
	}
}

// Whatever was not measured leaves no trace but in the goals.
func TestReportOfNothing(t *testing.T) {
	t.Parallel()
	got := render(&Results{Values: nil}, notes)
	if strings.Count(got, "not measured") != len(goals) || strings.Contains(got, "## Transactions") || strings.Contains(got, noteOf(notes, "Bulk")) {
		t.Errorf("got:\n%s", got)
	}
}

// Two of nine workloads miss: the goal says which figures, and how many.
func TestVerdict(t *testing.T) {
	t.Parallel()
	var v verdict
	if got := v.outcome(); got != "not measured" {
		t.Errorf("got %s", got)
	}
	v.part("a", 0.5, "%.2f", true)
	v.part("not measured", math.NaN(), "%.2f", false)
	if got := v.measured() + " " + v.outcome(); got != "a 0.50 met" {
		t.Errorf("got %s", got)
	}
	v.part("b", 0.9, "%.2f", false)
	if got := v.measured() + " " + v.outcome(); got != "a 0.50; b 0.90 **missed** in 1 of 2" {
		t.Errorf("got %s", got)
	}
}
