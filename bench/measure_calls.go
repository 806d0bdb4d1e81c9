//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const callsMeasure = "calls"

// Quantities of callsMeasure, for one transaction.
const (
	quantityReads           = "reads"
	quantityEmpty           = "empty" // calls that failed, such as reads of an empty socket
	quantityWrites          = "writes"
	quantityWaits           = "waits"
	quantityOthers          = "others"
	quantityAllocations     = "allocations"      // Hourgate only
	quantityIdleAllocations = "idle allocations" // a second, with nothing to do
)

// measureCalls counts system calls, which slows everything down, and Hourgate's allocations.
func measureCalls(ctx context.Context, r *rig) error {
	strace, err := findProgram("strace")
	if err != nil {
		return err
	}
	r.sayf("system calls and allocations")
	return r.rounds(ctx, r.proxies, func(ctx context.Context, p *proxy) error {
		if p.process == nil {
			return nil
		}
		quantities, err := r.countCalls(ctx, strace, p)
		if err != nil {
			return err
		}
		if p.ops != "" {
			quantities[quantityAllocations], quantities[quantityIdleAllocations], err = r.countAllocations(ctx, p)
			if err != nil {
				return err
			}
		}
		r.results.add(callsMeasure, p.name, quantities)
		return nil
	})
}

// transact runs a number of transactions with one client.
func (r *rig) transact(ctx context.Context, p *proxy, transactions int) error {
	out, err := r.client(ctx, p, r.pgbench, "-n", "-S", "-M", "simple", "-c", "1", "-t", strconv.Itoa(transactions)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	return nil
}

// countCalls takes what few transactions need from what many need, so that connecting cancels out.
func (r *rig) countCalls(ctx context.Context, strace string, p *proxy) (map[string]float64, error) {
	const few = 10
	less, err := r.trace(ctx, strace, p, few)
	if err != nil {
		return nil, err
	}
	more, err := r.trace(ctx, strace, p, few+r.mode.traced)
	if err != nil {
		return nil, err
	}
	each := func(count func(calls) int) float64 { return float64(count(more)-count(less)) / float64(r.mode.traced) }
	return map[string]float64{
		quantityReads:  each(func(c calls) int { return c.reads }),
		quantityEmpty:  each(func(c calls) int { return c.failed }),
		quantityWrites: each(func(c calls) int { return c.writes }),
		quantityWaits:  each(func(c calls) int { return c.waits }),
		quantityOthers: each(func(c calls) int { return c.others }),
	}, nil
}

// trace counts the proxy's system calls during some transactions.
func (r *rig) trace(ctx context.Context, strace string, p *proxy, transactions int) (calls, error) {
	file := r.file("strace")
	_ = os.Remove(file) // of the turn before
	cmd := exec.CommandContext(ctx, strace, "-f", "-c", "-p", strconv.Itoa(p.process.pid), "-o", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var complaint bytes.Buffer
	attached, said := io.Pipe()
	cmd.Stderr = io.MultiWriter(&complaint, said)
	if err := cmd.Start(); err != nil {
		return calls{}, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // our signal ends it, which is an error to it
		_ = said.Close()
		close(ended)
	}()
	// Once it has said something it is attached, to the first thread at least.
	if _, err := attached.Read(make([]byte, 1)); err != nil {
		<-ended
		return calls{}, errors.Join(fmt.Errorf("strace: %s", complaint.Bytes()), err)
	}
	go io.Copy(io.Discard, attached) //nolint:errcheck // until strace ends
	if err := sleep(ctx, 100*time.Millisecond); err != nil {
		return calls{}, err
	}
	runErr := r.transact(ctx, p, transactions)
	if err := errors.Join(runErr, cmd.Process.Signal(syscall.SIGINT)); err != nil {
		return calls{}, err
	}
	<-ended
	content, err := os.ReadFile(file)
	if err != nil {
		return calls{}, err
	}
	return parseStrace(string(content))
}

// calls are a process's system calls by what they are for.
type calls struct{ reads, writes, waits, others, failed int }

// parseStrace reads the table of strace -c: time, seconds, µs a call, calls, errors if there were any, name.
func parseStrace(table string) (calls, error) {
	var c calls
	begun := false
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 0 && strings.HasPrefix(fields[0], "---"):
			begun = true
			continue
		case !begun || len(fields) < 5 || fields[len(fields)-1] == "total":
			continue
		}
		count, err := strconv.Atoi(fields[3])
		if err != nil {
			return c, fmt.Errorf("strace's table: %q", line)
		}
		kind := callKind(fields[len(fields)-1], &c)
		*kind += count
		if len(fields) > 5 && kind == &c.reads {
			failed, err := strconv.Atoi(fields[4])
			if err != nil {
				return c, fmt.Errorf("strace's table: %q", line)
			}
			c.failed += failed
		}
	}
	if !begun {
		return c, fmt.Errorf("strace printed no table but %q", table)
	}
	return c, nil
}

func callKind(name string, c *calls) *int {
	switch name {
	case "read", "readv", "recvfrom", "recvmsg":
		return &c.reads
	case "write", "writev", "sendto", "sendmsg":
		return &c.writes
	case "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6":
		return &c.waits
	}
	return &c.others
}

// countAllocations reads the Go runtime's counter around few and around many transactions, so that connecting and the
// question itself cancel out, and around a while with none: what the process allocates by the clock is not the transactions'.
func (r *rig) countAllocations(ctx context.Context, p *proxy) (each, idle float64, err error) {
	const few = 100
	many := few + 15*r.mode.traced // what goes on beside them gets the less weight
	var counts, took [5]float64
	for i, during := range []func() error{
		func() error { return nil },
		func() error { return nil }, // the question alone
		func() error { return r.transact(ctx, p, few) },
		func() error { return r.transact(ctx, p, many) },
		func() error { return sleep(ctx, idleTime) },
	} {
		began := time.Now()
		if err := during(); err != nil {
			return 0, 0, err
		}
		took[i] = time.Since(began).Seconds()
		if counts[i], err = scrape(ctx, p.ops, "go_memstats_mallocs_total"); err != nil {
			return 0, 0, err
		}
	}
	grown := func(i int) float64 { return counts[i] - counts[i-1] }
	idle = (grown(4) - grown(1)) / took[4]
	return (grown(3) - grown(2) - idle*(took[3]-took[2])) / float64(many-few), idle, nil
}

// idleTime is how long allocations are counted while nothing happens.
const idleTime = 2 * time.Second

// scrape reads one metric without labels from the operator port.
func scrape(ctx context.Context, ops, metric string) (float64, error) {
	content, err := get(ctx, "http://"+ops+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, metric+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", metric)
}

// get fetches a page of Hourgate's.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return body, err
}
