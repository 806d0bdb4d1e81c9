package strangers

import (
	"errors"
	"sync"
	"time"

	"github.com/hourgate/hourgate/audit"
)

// Refusals are recorded one by one as long as there are few. Strangers cause them, and could fill the trail's disk, which
// would stop everybody. What goes beyond these limits within a minute is counted, and one record at its end says how many
// there were from one network, or of one user, for one cause.
const (
	refusalWindow  = time.Minute
	wholePerKey    = 5   // of one network or user, for one cause
	wholeInAll     = 100 // of strangers. Those of users who have authenticated don't count
	maxRefusalKeys = 200 // networks that are counted by themselves; the rest together. Users are as many as the policy has
)

// Refusals is the trail for refusals.
type Refusals struct {
	Append func(audit.Record) error
	Failed func(error) // is told of an error that nobody waits for

	mu    sync.Mutex
	since time.Time // when the window began; zero when there is none
	whole int       // records of strangers in it
	keys  int       // of strangers in seen
	seen  map[refusalKey]*refusalCount
	timer *time.Timer
}

type refusalKey struct{ who, cause string }

type refusalCount struct {
	all, recorded int64
	first         time.Time
	sample        audit.Record // what all of them have
}

// Record writes a record, or counts it. network is where the client is; known says that it has authenticated.
func (r *Refusals) Record(record audit.Record, network string, known bool) error {
	key := refusalKey{network, record.Cause}
	if known {
		key.who = record.User
	}
	if !r.count(key, &record, network, known) {
		return nil
	}
	return r.Append(record)
}

// count says whether the record is to be written.
func (r *Refusals) count(key refusalKey, record *audit.Record, network string, known bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.since.IsZero() {
		r.since, r.whole, r.keys, r.seen = now, 0, 0, make(map[refusalKey]*refusalCount)
		r.timer = time.AfterFunc(refusalWindow, r.Flush)
	}
	c := r.seen[key]
	crowd := c == nil && !known && r.keys >= maxRefusalKeys
	if c == nil {
		if crowd {
			key, network = refusalKey{cause: key.cause}, ""
			c = r.seen[key] // causes are a closed set
		}
		if c == nil {
			c = &refusalCount{first: now, sample: audit.Record{
				Event: record.Event, Subject: audit.Subject{RemoteAddr: network}, Outcome: audit.Outcome{Cause: record.Cause, Code: record.Code},
			}}
			if known {
				c.sample.User = key.who
			} else {
				r.keys++
			}
			r.seen[key] = c
		}
	}
	c.all++
	if c.recorded >= wholePerKey || !known && r.whole >= wholeInAll || crowd {
		return false
	}
	c.recorded++
	if !known {
		r.whole++
	}
	return true
}

// Flush records what was only counted and ends the window.
func (r *Refusals) Flush() {
	r.mu.Lock()
	seen, since := r.seen, r.since
	r.seen, r.since = nil, time.Time{}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	var errs []error
	for _, c := range seen {
		if c.all == c.recorded {
			continue
		}
		c.sample.Count, c.sample.Since = c.all-c.recorded, since
		errs = append(errs, r.Append(c.sample))
	}
	if err := errors.Join(errs...); err != nil {
		r.Failed(err)
	}
}
