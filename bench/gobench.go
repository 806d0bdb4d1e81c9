//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// goBenchmarks are those of the parts that a log-in or a message passes through.
const goBenchmarks = "SCRAM|Decide|Append|Statement|Frames|Receive"

// goBenchmark is one line of `go test -bench`.
type goBenchmark struct {
	Name   string
	Nanos  float64 // for an operation, as what follows
	Bytes  float64
	Allocs float64
}

func measureGo(ctx context.Context, r *rig) error {
	r.sayf("Go benchmarks")
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	line := append(r.pinned(), "go", "test", "-run", "^$", "-bench", goBenchmarks, "-benchmem", "-benchtime", r.mode.benchTime.String(), "-timeout", "4m",
		"./audit", "./internal/burst", "./policy", "./proxy")
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test: %w\n%s", err, out)
	}
	r.results.GoBenchmarks = parseGoBenchmarks(string(out))
	return nil
}

// parseGoBenchmarks reads lines such as "BenchmarkDecide/denied-2  1000  1234 ns/op  56 B/op  7 allocs/op". Names are
// given without "Benchmark" and the number of processors, and with their package's.
func parseGoBenchmarks(output string) []goBenchmark {
	var found []goBenchmark
	pkg := ""
	for line := range strings.Lines(output) {
		if path, ok := strings.CutPrefix(line, "pkg: "); ok {
			pkg = strings.TrimSpace(path[strings.LastIndex(path, "/")+1:])
		}
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if dash := strings.LastIndex(name, "-"); dash > 0 {
			if _, err := strconv.Atoi(name[dash+1:]); err == nil {
				name = name[:dash]
			}
		}
		b := goBenchmark{Name: pkg + " " + strings.ReplaceAll(name, "_", " ")}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				break
			}
			switch fields[i+1] {
			case "ns/op":
				b.Nanos = value
			case "B/op":
				b.Bytes = value
			case "allocs/op":
				b.Allocs = value
			}
		}
		found = append(found, b)
	}
	return found
}
