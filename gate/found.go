package gate

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/preflight"
)

const (
	// turns is how many integrations that nobody uses are looked at or swept at a time.
	turns = 16
	// A server that was not ready is looked at again soon, since AWS or the server may have been away for a moment, and then
	// less often.
	lookSoon  = 5 * time.Second
	lookAgain = time.Minute
	// lookInterval is how often the others are looked at.
	lookInterval = 30 * time.Minute
)

// about is what is said of an integration besides how it is reached. It changes without a new connection.
type about struct {
	found    bool // by discovery; the configuration says the others
	id       string
	place    string
	labels   policy.Labels
	nameTags []string
	notReady string // what discovery knows against it
}

// said is what the configuration says.
func said(i Integration) about {
	return about{id: i.Name, place: "configuration", labels: labelsOf(i.Labels, false)}
}

// labelsOf makes labels of plain ones, each trusted, or else each as trusted as a tag of its name.
func labelsOf(plain map[string]string, tags bool) policy.Labels {
	labels := make(policy.Labels, len(plain))
	for key, value := range plain {
		label := policy.Label{Value: value}
		if tags {
			label.Tags = []string{key}
		}
		labels[key] = label
	}
	return labels
}

// fromDiscovery is what was found, as the configuration would say it.
func fromDiscovery(d discover.Integration) (Integration, about) {
	labels := make(policy.Labels, len(d.Labels))
	for key, label := range d.Labels {
		labels[key] = policy.Label{Value: label.Value, Tags: label.Tags}
	}
	i := Integration{
		Name: d.Name, Hostname: d.Writer.Host, Port: d.Writer.Port, Database: d.Database,
		SSLMode: d.SSLMode, SSLRootCert: d.SSLRootCert, SSLNegotiation: d.SSLNegotiation, Secret: d.Secret, ReaderServers: d.Readers,
	}
	if i.SSLMode != "disable" {
		i.SSLServerName = d.Writer.Name
	}
	i.setDefaults()
	return i, about{found: true, id: d.ID, place: d.Place.String(), labels: labels, nameTags: d.NameTags, notReady: d.NotReady}
}

// absent is an integration that was found and can't be used as things are.
type absent struct {
	database string
	about    about
}

// Sync makes the fleet have exactly those integrations, of the found ones: it adds, changes and removes what differs, and
// has the policy read again once. What is known by the name of a configured integration is left out.
func (f *Fleet) Sync(ctx context.Context, found []discover.Integration) {
	changed := false
	keep := make(map[string]bool, len(found))
	f.changing.Lock()
	for _, d := range found {
		i, a := fromDiscovery(d)
		if f.configured(i.Name) {
			continue
		}
		keep[i.Name] = true
		changed = f.adopt(ctx, i, a) || changed
	}
	f.mu.Lock()
	for name, m := range f.members {
		if m.about.found && !keep[name] {
			delete(f.members, name)
			f.retire(m)
			f.log.Info("integration is gone, its sessions go on until their grants end", "integration", name)
			changed = true
		}
	}
	for name := range f.absent {
		if !keep[name] {
			delete(f.absent, name)
			changed = true
		}
	}
	f.mu.Unlock()
	f.changing.Unlock()
	if changed {
		f.changed()
	}
}

func (f *Fleet) configured(name string) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	m := f.members[name]
	return m != nil && !m.about.found
}

// adopt takes one found integration in. One that can't be used now, and has not been before, is only known of.
func (f *Fleet) adopt(ctx context.Context, i Integration, a about) (changed bool) {
	f.mu.RLock()
	old, was := f.members[i.Name], f.absent[i.Name]
	f.mu.RUnlock()
	if a.notReady != "" && (old == nil || old.about.id != a.id) {
		return f.know(i, a, old, was)
	}
	if a.notReady != "" { // what is known against it leaves the connections alone that work
		i = old.settings
	}
	changed, err := f.putLocked(ctx, i, a)
	if err != nil {
		f.log.Error("integration can't be used", "integration", i.Name, "error", err)
		a.notReady = "the gate's settings for it can't be used"
		return f.know(i, a, old, was)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.absent, i.Name)
	return changed || was != nil
}

// know notes an integration that can't be used. A member of its name, which is another server, is retired.
func (f *Fleet) know(i Integration, a about, old *member, was *absent) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old != nil {
		delete(f.members, i.Name)
		f.retire(old)
	}
	if was == nil || was.about.notReady != a.notReady {
		f.log.Warn("integration is not ready", "integration", i.Name, "why", a.notReady, "place", a.place)
	}
	f.absent[i.Name] = &absent{i.Database, a}
	return old != nil || was == nil || !was.about.same(a)
}

// same reports whether a policy means the same with both.
func (a about) same(o about) bool {
	return slices.Equal(a.nameTags, o.nameTags) && maps.EqualFunc(a.labels, o.labels, func(x, y policy.Label) bool {
		return x.Value == y.Value && slices.Equal(x.Tags, y.Tags)
	})
}

// Known is what the policy may choose integrations by. Those that still have sessions are among them.
func (f *Fleet) Known() policy.Known {
	f.mu.RLock()
	defer f.mu.RUnlock()
	k := policy.Known{Labels: make(map[string]policy.Labels), NameTags: make(map[string][]string), Readers: make(map[string]bool), Open: f.open}
	note := func(name string, a about) { k.Labels[name], k.NameTags[name] = a.labels, a.nameTags }
	for name, m := range f.members {
		k.Readers[name] = len(m.readers) > 0
	}
	for m := range f.retiring {
		note(m.name, m.about)
	}
	for name, a := range f.absent {
		note(name, a.about)
	}
	for name, m := range f.members {
		note(name, m.about)
	}
	return k
}

// State is an integration as it stands, for people.
type State struct {
	Name     string            `json:"name"`
	Place    string            `json:"place"` // where it was found, or "configuration"
	Server   string            `json:"server"`
	Labels   map[string]string `json:"labels,omitempty"`
	NotReady string            `json:"not_ready,omitempty"` // "" where nothing is known against it
	SQL      []string          `json:"sql,omitempty"`       // what a DBA runs to make it ready
}

// States returns all integrations by name.
func (f *Fleet) States() []State {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var all []State
	for name, m := range f.members {
		s := State{Name: name, Place: m.about.place, Server: m.server.Address(), Labels: plain(m.about.labels), NotReady: m.about.notReady}
		if failed := m.failed; s.NotReady == "" && failed != nil {
			s.NotReady, s.SQL = failed.detail, failed.sql
		}
		all = append(all, s)
	}
	for name, a := range f.absent {
		all = append(all, State{Name: name, Place: a.about.place, Labels: plain(a.about.labels), NotReady: a.about.notReady})
	}
	slices.SortFunc(all, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func plain(labels policy.Labels) map[string]string {
	text := make(map[string]string, len(labels))
	for key, label := range labels {
		text[key] = label.Value
	}
	return text
}

// failure is what a look at a server found that keeps people out.
type failure struct {
	reason string // for people who want to connect: nothing that a server or AWS said
	detail string // for operators
	sql    []string
}

// failureOf is the first check that fails and that is about more than one of several databases; nil if none does.
func failureOf(checks []preflight.Check, database string) *failure {
	for _, c := range checks {
		if c.Status == preflight.Fail && (c.Database == "" || c.Database == database) {
			reason := "its admin can't do the work (" + c.Name + ")"
			if c.Name == "connection" || c.Name == "database" {
				reason = "the gate can't log in to its server as the admin"
			}
			return &failure{reason: reason, detail: c.Name + ": " + c.Detail, sql: c.SQL}
		}
	}
	return nil
}

// lookAfter looks at a found integration's server, in turn with the others, and again and again: one whose admin can't do
// the work lets nobody in and says why.
func (f *Fleet) lookAfter(m *member) {
	database, soon := m.keeper.Database(), lookSoon
	for {
		select {
		case f.wiring.roles.Turns <- struct{}{}:
		case <-m.ctx.Done():
			return
		}
		checks := m.look(m.ctx, f.wiring.roles.Policy.Set())
		m.keeper.Rest()
		<-f.wiring.roles.Turns
		if m.ctx.Err() != nil {
			return
		}
		now := failureOf(checks, database)
		f.mu.Lock()
		before := m.failed
		m.failed = now
		f.mu.Unlock()
		if now != nil && (before == nil || before.detail != now.detail) {
			f.log.Error("integration is not ready", "integration", m.name, "why", now.detail, "sql", now.sql)
		}
		if now == nil && before != nil {
			f.log.Info("integration is ready", "integration", m.name)
		}
		pause := lookInterval
		if now != nil {
			pause, soon = soon, min(2*soon, lookAgain)
		} else {
			soon = lookSoon
		}
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
			return
		}
	}
}
