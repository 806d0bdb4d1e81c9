package gate

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/policy"
)

// policies makes the policy of the files, to which the integrations that there are give a meaning. Package access adds
// grants from requests, and locks, and puts it in force.
type policies struct {
	put          func(files *policy.Set)
	integrations *Fleet

	mu       sync.Mutex
	files    *policy.Set
	accepted []policy.Source   // what files was made of
	refused  []*policy.Reading // since then, that took something away
	taken    []string          // by the last one
}

func (p *policies) inFiles() *policy.Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.files
}

// load puts a reading in force. If it is refused, only what it takes away is.
func (p *policies) load(r *policy.Reading) (*policy.Set, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Lost(p.files)
	set, err := r.Set()
	if err == nil {
		p.files, p.accepted, p.refused = set, r.Sources, nil
		p.put(p.files)
		return set, nil
	}
	var narrowed *policy.Set
	narrowed, p.taken = r.Narrow(p.files)
	if len(p.taken) > 0 {
		p.files, p.refused = narrowed, append(p.refused, r)
		p.put(p.files)
	}
	return nil, err
}

// rebuild reads the accepted files anew, because integrations have come, gone or changed.
func (p *policies) rebuild() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, err := policy.ReadSources(p.accepted, p.integrations.Databases(), p.integrations.Known()).Set()
	if err != nil {
		return err
	}
	for _, r := range p.refused {
		set, _ = r.Narrow(set)
	}
	p.files = set
	p.put(p.files)
	return nil
}

// maxNamed bounds the names in one list of a record.
const maxNamed = 100

func loadedRecord(r *policy.Reading, c policy.Changes) audit.Record {
	return audit.Record{Event: audit.PolicyLoaded, Policy: audit.Policy{
		PolicyHash: r.Hash(), PolicyFiles: describe(r.Sources),
		UsersAdded: named(c.UsersAdded), UsersRemoved: named(c.UsersRemoved), UsersChanged: named(c.UsersChanged),
		GrantsAdded: named(c.GrantsAdded), GrantsRemoved: named(c.GrantsRemoved), GrantsMoved: named(c.GrantsMoved), GrantsChanged: named(c.GrantsChanged),
		FlowsAdded: named(c.FlowsAdded), FlowsRemoved: named(c.FlowsRemoved), FlowsChanged: named(c.FlowsChanged),
	}}
}

func rejectedRecord(r *policy.Reading, err error, taken []string) audit.Record {
	return audit.Record{Event: audit.PolicyRejected, Error: err.Error(), Policy: audit.Policy{
		PolicyHash: r.Hash(), PolicyFiles: describe(r.Sources), TakenAway: named(taken),
	}}
}

func named(names []string) []string {
	if more := len(names) - maxNamed; more > 0 {
		return append(slices.Clone(names[:maxNamed]), fmt.Sprintf("and %d more", more))
	}
	return names
}

// describe names files with their owner and the time of their last change, which is as near as the gate can come to who
// changed them.
func describe(sources []policy.Source) []string {
	lines := make([]string, 0, len(sources))
	for _, s := range sources {
		line := s.File
		if info, err := os.Stat(s.File); err == nil {
			line = fmt.Sprintf("%s, %s, %s", s.File, ownerOf(info), info.ModTime().UTC().Format(time.RFC3339Nano))
		}
		lines = append(lines, line)
	}
	return named(lines)
}
