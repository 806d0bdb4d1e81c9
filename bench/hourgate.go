//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/pgserver"
)

const modulePath = "github.com/hourgate/hourgate"

// build makes the program to measure, as `make build` does.
func (r *rig) build(ctx context.Context) error {
	if r.opts.hourgate != "" {
		r.binary = r.opts.hourgate
		return nil
	}
	r.binary = r.file("hourgate")
	args := []string{"build", "-trimpath", "-o", r.binary}
	if r.opts.profile != "" {
		root, err := moduleRoot(ctx)
		if err != nil {
			return err
		}
		overlay, err := r.overlay(root)
		if err != nil {
			return err
		}
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, modulePath+"/cmd/hourgate")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// moduleRoot is the checkout that bench is run in.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", modulePath).Output()
	return strings.TrimSpace(string(out)), err
}

// gateConfig has everything at its default, but for the limit on strangers from one address, which all clients share
// here.
const gateConfig = `listen: 127.0.0.1:%d
ops_listen: 127.0.0.1:%d
deployment: %s
drain_timeout: 1s
role_linger: 30m
tls: {cert_file: server.crt, key_file: server.key}
policy: [policy.yaml%s]
audit: {file: trail.jsonl%s}
limits: {unauthenticated_per_address: 2000}
integrations:
  - name: %s
    hostname: localhost
    port: %d
    database: %s
    ssl_mode: verify-full
    ssl_root_cert: %s
    secret: {file: secret.json}
%s`

// gateExtras are what a Hourgate has besides what all have.
type gateExtras struct {
	policy       string // another file of it, morePolicy
	integrations string // more lines of the list
}

const morePolicy = "more.yaml"

// moreIntegration is a line of gateExtras: name, port, database, authority.
const moreIntegration = "  - {name: %s, hostname: localhost, port: %d, database: %s, ssl_mode: verify-full, ssl_root_cert: %s, secret: {file: secret.json}}\n"

// besideWith starts one more Hourgate, which stop ends before its time.
func (r *rig) besideWith(ctx context.Context, extras gateExtras) (p *proxy, stop func(), err error) {
	p, err = r.startHourgate(ctx, hourgateName, r.binary, r.server.Port, extras)
	return p, func() { r.stopProxy(p) }, err
}

func (r *rig) startHourgate(ctx context.Context, name, binary string, upstream int, extras gateExtras) (*proxy, error) {
	port, err := pgserver.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	opsPort, err := pgserver.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	folder, err := r.proxyFolder(name)
	if err != nil {
		return nil, err
	}
	secret, err := json.Marshal(map[string]string{"username": gateAdmin, "password": r.password})
	if err != nil {
		return nil, err
	}
	more := ""
	if extras.policy != "" {
		more = ", " + morePolicy
	}
	for file, content := range map[string]string{
		morePolicy:    extras.policy,
		"secret.json": string(secret),
		"policy.yaml": r.gatePolicy(),
		"config.yaml": fmt.Sprintf(gateConfig, port, opsPort, filepath.Base(folder), more, trails[name], benchDatabase, upstream, benchDatabase,
			r.authority.CertFile, extras.integrations),
	} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	p := &proxy{name: name, port: port, folder: folder, ops: fmt.Sprintf("127.0.0.1:%d", opsPort)}
	var environment []string
	if r.opts.profile != "" && binary == r.binary && r.opts.hourgate == "" {
		profilePort, err := pgserver.FreePort(ctx)
		if err != nil {
			return nil, err
		}
		p.profile = fmt.Sprintf("127.0.0.1:%d", profilePort)
		environment = []string{profileVariable + "=" + p.profile}
	}
	p.process, err = r.startProcess(filepath.Base(folder), nil, environment, binary, "serve", "--config", filepath.Join(folder, "config.yaml"))
	if err != nil {
		return nil, err
	}
	return p, p.process.await(ctx, func(ctx context.Context) error {
		_, err := get(ctx, "http://"+p.ops+"/readyz")
		return err
	})
}

// firstUsers is how many people there are who have not been seen before.
const firstUsers = 64

func firstUser(i int) string { return fmt.Sprintf("first-%02d", i) }

// gatePolicy lets everybody read and write, so that COPY can go both ways.
func (r *rig) gatePolicy() string {
	users := []string{benchUser}
	for i := range firstUsers {
		users = append(users, firstUser(i))
	}
	for i := range crowd {
		users = append(users, crowdUser(i*crowdSessions))
	}
	until := time.Now().Add(12 * time.Hour).UTC().Format(time.RFC3339)
	var people, grants strings.Builder
	for _, user := range users {
		fmt.Fprintf(&people, "  - {name: %s, scram: %q}\n", user, r.verifier)
		fmt.Fprintf(&grants, "  - {name: %s, users: [%s], integration: %s, access: READ_WRITE, until: %s, max_sessions: 1000}\n",
			user, user, benchDatabase, until)
	}
	return "users:\n" + people.String() + "grants:\n" + grants.String()
}
