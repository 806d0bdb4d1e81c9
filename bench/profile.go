//go:build linux

package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Hourgate has no profiling endpoint, and is not to get one for our sake. With -profile the build has one file more,
// which the checkout does not: the one embedded here, through go build -overlay.
//
//go:embed profile.go.txt
var profileSource string

const profileVariable = "HOURGATE_BENCH_PROFILE" // its environment variable, the address to listen on

// overlay writes go build's list of files that are not where they seem to be.
func (r *rig) overlay(root string) (string, error) {
	source := r.file("profile.go")
	if err := os.WriteFile(source, []byte(profileSource), 0o600); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(root, "cmd", "hourgate", "bench_profile.go"): source},
	})
	if err != nil {
		return "", err
	}
	file := r.file("overlay.json")
	return file, os.WriteFile(file, list, 0o600)
}

// profileCPU begins a profile of a turn. wait returns when it is written.
func (r *rig) profileCPU(ctx context.Context, p *proxy, measure string, window time.Duration) (wait func() error) {
	if r.opts.profile == "" || p.profile == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	seconds := strconv.Itoa(max(1, int(window.Seconds())))
	go func() {
		done <- r.saveProfile(ctx, p, "cpu-"+p.name+"-"+measure, "profile?seconds="+seconds)
	}()
	return func() error { return <-done }
}

// saveProfile fetches one of runtime/pprof's profiles, if they are wanted. That of an earlier round is replaced.
func (r *rig) saveProfile(ctx context.Context, p *proxy, name, path string) error {
	if r.opts.profile == "" || p.profile == "" {
		return nil
	}
	content, err := get(ctx, "http://"+p.profile+"/debug/pprof/"+path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.opts.profile, 0o755); err != nil { //nolint:gosec // for whoever asked for it
		return err
	}
	file := strings.NewReplacer("/", "-", " ", "-").Replace(name) + ".pprof"
	return os.WriteFile(filepath.Join(r.opts.profile, file), content, 0o644) //nolint:gosec // likewise
}
