package gate

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hourgate/hourgate/internal/descriptors"
	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/policy"
)

type reloadMetrics struct {
	successful, timestamp, users, grants, config prometheus.Gauge
}

func newReloadMetrics(registry prometheus.Registerer) reloadMetrics {
	f := promauto.With(registry)
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := reloadMetrics{
		successful: gauge("hourgate_policy_last_reload_successful", "1 if the policy files as they are now are in force, 0 if they were refused."),
		timestamp:  gauge("hourgate_policy_last_reload_success_timestamp_seconds", "When the policy in force was loaded."),
		users:      gauge("hourgate_policy_users", "Users in the policy in force."),
		grants:     gauge("hourgate_policy_grants", "Grants in the policy in force, live or not."),
		config:     gauge("hourgate_config_last_reload_successful", "1 if the configuration file as it is now was taken, as far as a running gate can; 0 if it was refused."),
	}
	m.config.Set(1)
	return m
}

func (m reloadMetrics) loaded(set *policy.Set) {
	m.sizes(set)
	m.successful.Set(1)
	m.timestamp.SetToCurrentTime()
}

func (m reloadMetrics) sizes(set *policy.Set) {
	users, grants := set.Size()
	m.users.Set(float64(users))
	m.grants.Set(float64(grants))
}

// parts are what is reloaded by itself.
type parts struct{ config, tls, policy bool }

// reload reads what is asked for anew; what is bad changes nothing. failed is why something could not be read, if that may
// pass although no file changes: it has to be tried again.
func (g *Gate) reload(p parts) (failed error) {
	if p.config {
		g.reloadConfig()
	}
	if p.tls || p.config {
		if err := g.reloadCertificate(); err != nil {
			g.log.Error("certificate not reloaded, the old one stays", "error", err)
			if descriptors.Exhausted(err) {
				failed = err
			}
		}
	}
	if p.policy || p.config {
		failed = errors.Join(failed, g.reloadPolicy())
	}
	return failed
}

// reopen reopens the trail, for rotation. What fails is tried again once a second: there may be no descriptor free, or no
// room.
func (g *Gate) reopen() {
	err := g.trail.Reopen()
	g.reopenAt = time.Time{}
	if err != nil {
		g.reopenAt = time.Now().Add(time.Second)
		g.log.Error("trail could not be reopened, going on with the old file and trying again", "error", err)
	}
}

func (g *Gate) reopenAgain() {
	if !g.reopenAt.IsZero() && time.Now().After(g.reopenAt) {
		g.reopen()
		if g.reopenAt.IsZero() {
			g.log.Info("trail reopened")
		}
	}
}

func (g *Gate) reloadCertificate() error {
	cert, clientCAs, err := g.cfg.TLS.load()
	if err != nil {
		return err
	}
	return g.server.SetCertificate(cert, clientCAs)
}

// reloadConfig takes over what a running gate can take over of the configuration file, and says what needs a restart.
func (g *Gate) reloadConfig() {
	next, err := LoadConfig(g.cfg.file)
	var problems strictyaml.Problems
	errors.As(err, &problems)
	if err := append(problems, next.fileProblems()...).Err(); err != nil {
		g.reloads.config.Set(0)
		g.log.Error("configuration not reloaded, the old one stays in force", "error", err)
		return
	}
	restart := g.cfg.differences(&next)
	running := g.cfg
	running.doc, running.Policy, running.Integrations = next.doc, next.Policy, next.Integrations
	running.TLS.CertFile, running.TLS.KeyFile, running.TLS.ClientCAFile = next.TLS.CertFile, next.TLS.KeyFile, next.TLS.ClientCAFile
	running.Limits, running.LoginTimeout, running.Audit.Statements, running.Audit.Parameters = next.Limits, next.LoginTimeout, next.Audit.Statements, next.Audit.Parameters
	running.Audit.Results = next.Audit.Results
	running.DrainTimeout, running.LogLevel = next.DrainTimeout, next.LogLevel
	before := g.cfg
	g.cfg = running
	g.server.SetLimits(g.cfg.limits())
	if g.Level != nil {
		g.Level.Set(g.cfg.LogLevel.Level)
	}
	g.drainTimeout.Store(int64(g.cfg.DrainTimeout))
	for _, i := range g.cfg.Integrations {
		if err := g.fleet.Put(context.Background(), i); err != nil {
			g.log.Error("integration could not be added or changed", "integration", i.Name, "error", err)
		}
		g.server.Expect(i.Name)
	}
	for _, i := range before.Integrations {
		if !slices.ContainsFunc(g.cfg.Integrations, func(n Integration) bool { return n.Name == i.Name }) {
			g.fleet.Remove(i.Name)
		}
	}
	g.reloads.config.Set(1)
	g.log.Info("configuration loaded")
	if len(restart) > 0 {
		g.log.Warn("settings have changed that need a restart", "keys", restart)
	}
}

// reloadPolicy puts the policy files in force; sessions and roles are decided again. A policy that is refused still takes
// away what it takes away, as far as it can be understood. failed is as in reload.
func (g *Gate) reloadPolicy() (failed error) {
	reading := policy.Read(g.cfg.Policy, g.fleet.Databases(), g.fleet.Known())
	before := g.policies.inFiles()
	set, err := g.policies.load(reading)
	if err != nil {
		g.reloads.successful.Set(0)
		g.reloads.sizes(g.policies.inFiles())
		taken := g.policies.taken
		g.log.Error("policy not reloaded, the old one stays in force", "error", err, "taken_away", taken)
		if failed := reading.Failed(); failed != nil {
			return failed // nothing was refused yet
		}
		if err := g.trail.Append(rejectedRecord(reading, err, taken)); err != nil {
			g.log.Error("a policy's rejection could not be recorded", "error", err)
		}
		return nil
	}
	if err := g.trail.Append(loadedRecord(reading, before.Changes(set))); err != nil {
		// The records of the sessions that it ends can't be written either, but withdrawing access does not wait.
		g.log.Error("the policy's loading could not be recorded", "error", err)
	}
	g.reloads.loaded(set)
	users, grants := set.Size()
	g.log.Info("policy loaded", "users", users, "grants", grants)
	g.warn(set)
	return nil
}

// Warn logs what is no mistake in the configuration and its files, and yet dangerous.
func (g *Gate) Warn(warnings strictyaml.Problems) {
	if len(warnings) > 0 {
		g.log.Warn("the configuration or a file that it names is not as it should be", "warnings", warnings.Error())
	}
}

// warn logs what is no mistake in a policy and yet probably not meant.
func (g *Gate) warn(set *policy.Set) {
	if warnings := set.Warnings(); len(warnings) > 0 {
		g.log.Warn("the policy names what is not there, or what can't work", "warnings", warnings.Error())
	}
}
