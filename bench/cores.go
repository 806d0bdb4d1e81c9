//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Places where clients, proxies and server run, in the order in which they are measured.
const (
	allCores = "all"
	oneCore  = "one"
)

var places = []string{allCores, oneCore}

// at names a measure in a place.
func at(place, measure string) string {
	if place == allCores {
		return "all cores/" + measure
	}
	return measure
}

// chooseCores takes the last core for what is measured, and leaves the others to us, or takes all.
func (r *rig) chooseCores(ctx context.Context, place string) error {
	if r.allowed == nil {
		var err error
		if r.allowed, err = allowedCores(); err != nil {
			return err
		}
	}
	r.cores, r.ownCores = r.allowed, r.allowed
	if place == oneCore && len(r.allowed) == 1 {
		r.sayf("there is one core only: what measures and what is measured disturb each other")
	} else if place == oneCore {
		last := len(r.allowed) - 1
		r.cores, r.ownCores = r.allowed[last:], r.allowed[:last]
	}
	return pin(ctx, os.Getpid(), r.ownCores)
}

// pinServer keeps the server, and the backends to come, to the contestants' cores.
func (r *rig) pinServer(ctx context.Context) error {
	content, err := os.ReadFile(filepath.Join(r.file("postgresql"), "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return err
	}
	return pin(ctx, pid, r.cores)
}

// pin keeps all threads of a process, and those to come, to some cores.
func pin(ctx context.Context, pid int, cores []int) error {
	cmd := exec.CommandContext(ctx, "taskset", "-a", "-c", "-p", coreList(cores), strconv.Itoa(pid))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("taskset: %w: %s", err, out)
	}
	return nil
}

func coreList(cores []int) string {
	var list []string
	for _, core := range cores {
		list = append(list, strconv.Itoa(core))
	}
	return strings.Join(list, ",")
}

// pinned is what comes before a command line that is to run on the cores of the contestants.
func (r *rig) pinned() []string { return []string{"taskset", "-c", coreList(r.cores)} }
