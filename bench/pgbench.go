//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// turn is what one run of pgbench through one contestant showed, in a window that leaves connecting and ending out.
type turn struct {
	rate     float64 // transactions a second
	p50, p99 float64 // latency, microseconds
	p999     float64
	cpu      float64 // microseconds of the proxy's for a transaction
	switches float64 // context switches of the proxy for a transaction
}

// Parts of a run that are left out: the time after the first transaction, in which clients still connect and caches
// fill, and the time before the last.
const (
	warmUp   = 100 * time.Millisecond
	coolDown = 10 * time.Millisecond
	sampling = 20 * time.Millisecond
)

// pgbench says what a run is like.
type pgbench struct {
	measure    string
	window     time.Duration
	connecting bool // for each transaction
}

// runPgbench lets pgbench run until the window is over and reads the proxy's usage beside it.
func (r *rig) runPgbench(ctx context.Context, p *proxy, run pgbench, args ...string) (turn, error) {
	folder, err := os.MkdirTemp(r.folder, "pgbench-")
	if err != nil {
		return turn{}, err
	}
	defer os.RemoveAll(folder) //nolint:errcheck // close removes it too
	args = append([]string{"-n", "-T", "3600", "--log", "--log-prefix", filepath.Join(folder, "log")}, args...)
	cmd := r.client(ctx, p, r.pgbench, args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return turn{}, err
	}
	stop := make(chan struct{})
	samples := make(chan []usage, 1)
	go func() { samples <- sample(p.process, stop) }()
	profiled := r.profileCPU(ctx, p, run.measure, run.window)
	go endPgbench(ctx, cmd.Process, folder, run, stop)
	err = cmd.Wait()
	close(stop)
	used := <-samples
	if err := profiled(); err != nil {
		return turn{}, err
	}
	if err != nil {
		return turn{}, fmt.Errorf("pgbench: %w\n%s", err, output.Bytes())
	}
	done, err := readPgbenchLogs(folder)
	if err != nil {
		return turn{}, err
	}
	return evaluate(done, used)
}

// endPgbench ends a run when the window is over. pgbench's own -T begins before its clients have connected, which takes
// long through some; the signal is the one that it sets a timer for.
func endPgbench(ctx context.Context, process *os.Process, folder string, run pgbench, ended <-chan struct{}) {
	end := time.NewTimer(time.Minute) // of a run that never gets anywhere
	defer end.Stop()
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	for begun := false; ; {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return // which kills it
		case <-end.C:
			_ = process.Signal(syscall.SIGALRM) // or it has just ended
			return
		case <-tick.C:
			// Log-ins are too few to fill a block, and none of them is to be left out.
			if !begun && (run.connecting || logBegun(folder)) {
				begun = true
				end.Reset(warmUp + run.window + coolDown)
			}
		}
	}
}

// logBegun reports that transactions are being done. pgbench writes its log in blocks, so there have been some.
func logBegun(folder string) bool {
	files, _ := filepath.Glob(filepath.Join(folder, "log.*")) // the pattern is good
	return slices.ContainsFunc(files, func(file string) bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() > 0
	})
}

func readPgbenchLogs(folder string) ([]transaction, error) {
	files, err := filepath.Glob(filepath.Join(folder, "log.*"))
	if err != nil {
		return nil, err
	}
	var done []transaction
	for _, file := range files {
		more, err := readPgbenchLog(file)
		if err != nil {
			return nil, err
		}
		done = append(done, more...)
	}
	return done, nil
}

// sample reads a proxy's usage until stop is closed. Instants without a reading are left out.
func sample(p *process, stop <-chan struct{}) []usage {
	var samples []usage
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	for {
		if u, err := readUsage(p); err == nil {
			samples = append(samples, u)
		}
		select {
		case <-stop:
			return samples
		case <-tick.C:
		}
	}
}

// transaction is one line of pgbench's log.
type transaction struct {
	end     time.Time
	latency time.Duration
}

func readPgbenchLog(file string) ([]transaction, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	var done []transaction
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		t, err := parsePgbenchLine(lines.Text())
		if err != nil {
			return nil, err
		}
		done = append(done, t)
	}
	return done, lines.Err()
}

// parsePgbenchLine reads client_id transaction_no time script_no time_epoch time_us. [pgbench, Per-Transaction Logging]
func parsePgbenchLine(line string) (transaction, error) {
	fields := strings.Fields(line)
	if len(fields) < 6 {
		return transaction{}, fmt.Errorf("pgbench's log: %q", line)
	}
	latency, err1 := strconv.ParseInt(fields[2], 10, 64)
	seconds, err2 := strconv.ParseInt(fields[4], 10, 64)
	micros, err3 := strconv.ParseInt(fields[5], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return transaction{}, fmt.Errorf("pgbench's log: %w", err)
	}
	return transaction{end: time.Unix(seconds, micros*1000), latency: time.Duration(latency) * time.Microsecond}, nil
}

// evaluate finds the longest window between two samples that has only transactions at full speed, and counts in it.
func evaluate(done []transaction, samples []usage) (turn, error) {
	if len(done) == 0 {
		return turn{}, errors.New("no transaction was done")
	}
	slices.SortFunc(done, func(a, b transaction) int { return a.end.Compare(b.end) })
	begin, end := done[0].end.Add(warmUp), done[len(done)-1].end.Add(-coolDown)
	first := slices.IndexFunc(samples, func(u usage) bool { return u.at.After(begin) })
	last := len(samples) - 1
	for last >= 0 && samples[last].at.After(end) {
		last--
	}
	if first < 0 || last <= first {
		return turn{}, fmt.Errorf("%d transactions in %v are too few to count", len(done), end.Sub(begin))
	}
	from, to := samples[first], samples[last]
	var latencies []time.Duration
	for _, t := range done {
		if t.end.After(from.at) && !t.end.After(to.at) {
			latencies = append(latencies, t.latency)
		}
	}
	if len(latencies) == 0 {
		return turn{}, errors.New("no transaction was done within the window")
	}
	slices.SortFunc(latencies, cmp.Compare[time.Duration])
	n := float64(len(latencies))
	return turn{
		rate:     n / to.at.Sub(from.at).Seconds(),
		p50:      microseconds(percentile(latencies, 50)),
		p99:      microseconds(percentile(latencies, 99)),
		p999:     microseconds(percentile(latencies, 99.9)),
		cpu:      microseconds(to.cpu-from.cpu) / n,
		switches: float64(to.switches-from.switches) / n,
	}, nil
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// client is prepared to run one of PostgreSQL's client programs through a contestant, on its core.
func (r *rig) client(ctx context.Context, p *proxy, program string, args ...string) *exec.Cmd {
	line := append(append(r.pinned(), program), args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	sslMode := "verify-full"
	if p.plain {
		sslMode = "disable"
	}
	cmd.Env = []string{
		"PATH=/usr/bin:/bin", "LC_ALL=C", "PGHOST=localhost", "PGHOSTADDR=127.0.0.1", "PGPORT=" + strconv.Itoa(p.port),
		"PGUSER=" + benchUser, "PGPASSWORD=" + r.password, "PGDATABASE=" + benchDatabase,
		"PGSSLMODE=" + sslMode, "PGSSLROOTCERT=" + r.authority.CertFile, "PGGSSENCMODE=disable",
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is ours
	return cmd
}
