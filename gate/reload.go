package gate

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/policy"
)

const (
	// settleDelay lets an editor or a deployment finish before files are read.
	settleDelay = 100 * time.Millisecond
	// pollInterval catches changes that the file system does not tell of, as on network mounts.
	pollInterval = 30 * time.Second
)

type reloadMetrics struct {
	successful, timestamp, users, grants prometheus.Gauge
}

func newReloadMetrics(registry prometheus.Registerer) reloadMetrics {
	f := promauto.With(registry)
	return reloadMetrics{
		successful: f.NewGauge(prometheus.GaugeOpts{
			Name: "hourgate_policy_last_reload_successful", Help: "1 if the policy files as they are now are in force, 0 if they were refused.",
		}),
		timestamp: f.NewGauge(prometheus.GaugeOpts{
			Name: "hourgate_policy_last_reload_success_timestamp_seconds", Help: "When the policy in force was loaded.",
		}),
		users:  f.NewGauge(prometheus.GaugeOpts{Name: "hourgate_policy_users", Help: "Users in the policy in force."}),
		grants: f.NewGauge(prometheus.GaugeOpts{Name: "hourgate_policy_grants", Help: "Grants in the policy in force, live or not."}),
	}
}

func (m reloadMetrics) loaded(set *policy.Set) {
	users, grants := set.Size()
	m.users.Set(float64(users))
	m.grants.Set(float64(grants))
	m.successful.Set(1)
	m.timestamp.SetToCurrentTime()
}

// watch reloads when watched files change and when reload is signalled, until ctx is done.
func (g *Gate) watch(ctx context.Context, reload <-chan os.Signal) {
	events, errs, stop := g.watchFolders()
	defer stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	seen := g.cfg.seen
	changed := time.After(0) // for what changed between loading and watching
	for {
		select {
		case <-events:
			if changed == nil {
				changed = time.After(settleDelay)
			}
			continue
		case err := <-errs:
			g.log.Warn("watching files", "error", err)
			continue
		case <-reload:
			seen, changed = g.cfg.fingerprint(), nil
			g.reload(true)
			continue
		case <-changed:
			changed = nil
		case <-poll.C:
		case <-ctx.Done():
			return
		}
		// Taken before loading: what changes meanwhile is noticed the next time.
		if now := g.cfg.fingerprint(); now != seen {
			g.reload(false)
			seen = now
		}
	}
}

// watchFolders watches folders and not files: editors and Kubernetes replace files by renaming others over them. Without
// a watcher the channels are nil and polling has to do.
func (g *Gate) watchFolders() (events <-chan fsnotify.Event, errs <-chan error, stop func()) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		g.log.Warn("changed files will be noticed by polling only", "error", err)
		return nil, nil, func() {}
	}
	for _, path := range g.cfg.watched() {
		folder := path
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			folder = filepath.Dir(path)
		}
		if err := watcher.Add(folder); err != nil {
			g.log.Warn("changes will be noticed by polling only", "folder", folder, "error", err)
		}
	}
	return watcher.Events, watcher.Errors, func() { _ = watcher.Close() }
}

// watched are the files and folders whose change is a reason to reload.
func (c *Config) watched() []string {
	files := append([]string{c.TLS.CertFile, c.TLS.KeyFile}, c.Policy...)
	if c.TLS.ClientCAFile != "" {
		files = append(files, c.TLS.ClientCAFile)
	}
	return files
}

// fingerprint is a hash of all watched files' names and contents. Files that can't be read count as absent.
type fingerprint [sha256.Size]byte

func (c *Config) fingerprint() fingerprint {
	h := sha256.New()
	for _, path := range c.watched() {
		entries, err := os.ReadDir(path)
		if err != nil {
			hashFile(h, path)
			continue
		}
		for _, entry := range entries {
			hashFile(h, filepath.Join(path, entry.Name()))
		}
	}
	return fingerprint(h.Sum(nil))
}

func hashFile(h hash.Hash, file string) {
	content, err := os.ReadFile(file)
	if err != nil {
		return
	}
	sum := sha256.Sum256(content)
	h.Write([]byte(file))
	h.Write(sum[:])
}

// reload reads policy and certificate anew; what is bad changes nothing. asked also reopens the trail, for rotation.
func (g *Gate) reload(asked bool) {
	if asked {
		if err := g.trail.Reopen(); err != nil {
			g.log.Error("trail could not be reopened, going on with the old file", "error", err)
		}
	}
	if err := g.reloadCertificate(); err != nil {
		g.log.Error("certificate not reloaded, the old one stays", "error", err)
	}
	if err := g.reloadPolicy(); err != nil {
		g.reloads.successful.Set(0)
		g.log.Error("policy not reloaded, the old one stays in force", "error", err)
	}
}

func (g *Gate) reloadCertificate() error {
	cert, clientCAs, err := g.cfg.TLS.load()
	if err != nil {
		return err
	}
	return g.server.SetCertificate(cert, clientCAs)
}

// reloadPolicy puts the policy files in force. Sessions and roles are decided again.
func (g *Gate) reloadPolicy() error {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	sources, err := policy.Read(g.cfg.Policy)
	var set *policy.Set
	if err == nil {
		set, err = policy.Parse(sources, g.fleet.Databases(), g.fleet.Known())
	}
	if err != nil {
		return errors.Join(err, g.trail.Append(audit.Record{Event: audit.PolicyRejected, Error: err.Error()}))
	}
	if err := g.trail.Append(audit.Record{Event: audit.PolicyLoaded}); err != nil {
		// The records of the sessions that it ends can't be written either, but withdrawing access does not wait.
		g.log.Error("the policy's loading could not be recorded", "error", err)
	}
	g.sources = sources
	g.access.SetFiles(set)
	g.reloads.loaded(set)
	users, grants := set.Size()
	g.log.Info("policy loaded", "users", users, "grants", grants)
	return nil
}
