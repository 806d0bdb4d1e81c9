package discover

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/wholefile"
)

// namer gives integrations names that are unique, and lets each keep its name as long as it asks for the same one.
//
// A name that was given once belongs to its home, the account and region or the file, also when no server there has it any
// more. A server elsewhere never gets it: grants that name it would open that server. All is in a file, so that the next
// gate knows it, which may start while an account does not answer, or after a server is gone.
type namer struct {
	taken map[string]bool   // by the configuration; no server that was found gets these
	given map[string]name   // by what is given
	has   map[string]string // what the server of that ID has, of given
	dirty bool              // given is not as it was put into the file
}

// name is one that was given.
type name struct {
	Home   string `json:"home"`
	ID     string `json:"id,omitempty"`     // of the server that got it last, until it asks for another one
	Wanted string `json:"wanted,omitempty"` // what that server asked for
}

const (
	// maxNames bounds the file. Who can tag could fill the disk with names: those that their servers gave up are forgotten then.
	maxNames = 100_000
	// keepAgain is how soon it is tried again to write the file.
	keepAgain = 10 * time.Second
)

// newNamer reads the file, if there is one.
func newNamer(taken []string, file string) (*namer, error) {
	n := &namer{taken: make(map[string]bool), given: make(map[string]name), has: make(map[string]string)}
	for _, t := range taken {
		n.taken[t] = true
	}
	if err := wholefile.Read(file, &n.given); err != nil {
		return nil, fmt.Errorf("the names that discovered servers were given before: %w (restore it; without it names are given anew, and may come to mean other servers)", err)
	}
	for given, to := range n.given {
		if to.ID != "" {
			n.has[to.ID] = given
		}
	}
	return n, nil
}

// name replaces the names that all ask for by those that they get. Those that have theirs already come first, then older
// servers before younger ones: whoever makes or tags a server later can't take a name that people use.
func (n *namer) name(all []Integration) {
	used := maps.Clone(n.taken)
	var newcomers []*Integration
	for k := range all {
		i := &all[k]
		if had, ok := n.has[i.ID]; ok && n.given[had].Wanted == i.Name && n.given[had].Home == i.Place.home() && !used[had] {
			used[had], i.Name = true, had
			continue
		}
		newcomers = append(newcomers, i)
	}
	slices.SortFunc(newcomers, func(a, b *Integration) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.ID, b.ID))
	})
	for _, i := range newcomers {
		wanted := i.Name
		i.Name = n.free(used, wanted, i.Place)
		used[i.Name] = true
		n.give(i.Name, name{Home: i.Place.home(), ID: i.ID, Wanted: wanted})
	}
	slices.SortFunc(all, func(a, b Integration) int { return strings.Compare(a.Name, b.Name) })
}

func (n *namer) give(given string, to name) {
	if len(n.given) >= maxNames {
		maps.DeleteFunc(n.given, func(_ string, to name) bool { return to.ID == "" })
	}
	if old, ok := n.has[to.ID]; ok { // it keeps its home, for the next server there that asks for it
		n.given[old] = name{Home: n.given[old].Home}
	}
	delete(n.has, n.given[given].ID)
	n.given[given], n.has[to.ID], n.dirty = to, given, true
}

// free returns the wanted name itself, or with the account and region, or with a number besides.
func (n *namer) free(used map[string]bool, wanted string, p Place) string {
	mine := func(name string) bool {
		last, known := n.given[name]
		return !used[name] && (!known || last.Home == p.home())
	}
	if mine(wanted) {
		return wanted
	}
	if p.Region != "" {
		wanted = strings.Join([]string{wanted, p.Account, p.Region}, "-")
	}
	unique := wanted
	for k := 2; !mine(unique); k++ {
		unique = fmt.Sprintf("%s-%d", wanted, k)
	}
	return unique
}

// putNames has the names written down, beside the work: what a tag takes away does not wait for a disk.
func (d *Discovery) putNames() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names.dirty {
		d.names.dirty = false
		d.file.Put(maps.Clone(d.names.given))
	}
}

// keepNames tries again what could not be written, and logs the first failure and its end, until ctx is done.
func (d *Discovery) keepNames(ctx context.Context) {
	var failed error
	for {
		next, err := d.file.Tried()
		var again <-chan time.Time // nil: never
		if err != nil {
			again = time.After(keepAgain)
		}
		switch {
		case err != nil && failed == nil:
			d.log.Error("the names that servers were given can't be written down, trying again: the next start may give them to others", "error", err)
		case err == nil && failed != nil:
			d.log.Info("the names that servers were given are written down")
		}
		failed = err
		select {
		case <-next:
		case <-again:
			d.file.Again()
		case <-ctx.Done():
			return
		}
	}
}
