package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// A Reading is what policy files said when they were read: a policy, or what is wrong with it and what can be understood
// all the same.
type Reading struct {
	Sources []Source // the files that could be read

	set     *Set
	checker *checker
	files   []decoded
	unread  strictyaml.Problems
	failed  error // see Failed
}

// Read reads the policy files at paths as one policy: users of one file may stand in grants of another. A folder among
// paths stands for each *.yaml and *.yml in it, but not for hidden files or folders within. integrations has the name of
// each integration and its default database, and known what else there is to say of them, if anything.
func Read(paths []string, integrations map[string]string, known ...Known) *Reading {
	sources, problems, failed := readAll(paths)
	r := newReading(sources, problems, integrations, known)
	r.failed = failed
	return r
}

// Failed returns why a file or folder that is there could not be read, or nil, if that may pass although the file does not
// change: there is no file descriptor left, or a disk fails. Missing files and permissions are not among that.
func (r *Reading) Failed() error { return r.failed }

// ReadSources is Read for files that were read already.
func ReadSources(sources []Source, integrations map[string]string, known ...Known) *Reading {
	return newReading(sources, nil, integrations, known)
}

// Set returns the policy, or all that is wrong as [strictyaml.Problems].
func (r *Reading) Set() (*Set, error) {
	if len(r.checker.problems) > 0 {
		return nil, slices.Concat(r.checker.problems, r.checker.unknown).Err()
	}
	return r.set, nil
}

// Hash is SHA-256 over the names and contents of the files, in hexadecimal.
func (r *Reading) Hash() string {
	h := sha256.New()
	for _, s := range r.Sources {
		sum := sha256.Sum256(s.Data)
		h.Write([]byte(s.File + "\x00"))
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// newReading begins with unread, the problems of files that could not be read.
func newReading(sources []Source, unread strictyaml.Problems, integrations map[string]string, known []Known) *Reading {
	c := newChecker(integrations)
	if len(known) > 0 {
		c.known = known[0]
	}
	c.problems = slices.Clone(unread)
	c.partial = len(unread) > 0
	r := &Reading{Sources: sources, checker: c, unread: unread}
	for _, s := range sources {
		f, ok := c.decode(s)
		if !ok {
			f.doc = nil
		}
		r.files = append(r.files, f)
	}
	all := c.check(r.readable())
	if len(c.problems) == 0 {
		r.set = c.build(r.readable(), all)
		r.set.origin = r.origins()
	}
	return r
}

// readable are the files that are YAML.
func (r *Reading) readable() []decoded {
	return slices.DeleteFunc(slices.Clone(r.files), func(f decoded) bool { return f.doc == nil })
}

// check reports what is wrong in the files.
func (c *checker) check(files []decoded) content {
	// All users come first: a grant may name those of a later file.
	for _, f := range files {
		c.checkUsers(f)
	}
	for _, f := range files {
		c.noteGroups(f)
		c.checkTrusted(f)
	}
	for _, f := range files {
		c.checkGroups(f)
		c.checkOperators(f)
		c.checkGrants(f)
	}
	var all content
	for _, f := range files {
		all.Users = append(all.Users, f.Users...)
		all.Groups = append(all.Groups, f.Groups...)
		all.Flows = append(all.Flows, f.Flows...)
		if f.Operators != nil {
			all.Operators = f.Operators
		}
	}
	c.member = newMembership(all.Users, all.Groups)
	for _, f := range files {
		c.checkFlows(f)
	}
	return all
}

// build makes the set of files without a problem.
func (c *checker) build(files []decoded, all content) *Set {
	for _, f := range files {
		for _, g := range f.Grants {
			all.Grants = append(all.Grants, c.resolved(g)...)
		}
		for _, flow := range f.Flows {
			c.resolve(flow)
		}
	}
	set := newSet(all, c.member, c.integrations)
	set.notes, set.readers, set.warnings = c.notes, maps.Clone(c.known.Readers), slices.Concat(c.unknown, c.warnings)
	set.claimed = c.claimed()
	return set
}

// kinds of what has a name of its own in a policy file.
const (
	kindUser  = "user"
	kindGroup = "group"
	kindGrant = "grant"
	kindFlow  = "access flow"
)

func originKey(kind, name string) string { return kind + "\x00" + name }

// originOf is the file in which something stood when the policy was loaded.
func (s *Set) originOf(kind, name string) string { return s.origin[originKey(kind, name)] }

// origins says where each name stands.
func (r *Reading) origins() map[string]string {
	origin := make(map[string]string)
	for _, f := range r.readable() {
		for _, l := range f.lists() {
			for i := range l.len {
				origin[originKey(l.kind, l.name(i))] = f.source.File
			}
		}
	}
	return origin
}

// A listing is one of a file's lists of what has names.
type listing struct {
	kind, key string
	len       int
	name      func(i int) string
}

func (f *decoded) lists() []listing {
	return []listing{
		{kindUser, "users", len(f.Users), func(i int) string { return nameOf(f.Users[i], func(u *User) string { return u.Name }) }},
		{kindGroup, "groups", len(f.Groups), func(i int) string { return nameOf(f.Groups[i], func(g *Group) string { return g.Name }) }},
		{kindGrant, "grants", len(f.Grants), func(i int) string { return nameOf(f.Grants[i], func(g *Grant) string { return g.Name }) }},
		{kindFlow, "access_flows", len(f.Flows), func(i int) string { return nameOf(f.Flows[i], func(w *Flow) string { return w.Name }) }},
	}
}

// nameOf is for entries that may not have been decoded.
func nameOf[T any](entry *T, name func(*T) string) string {
	if entry == nil {
		return ""
	}
	return name(entry)
}

// Lost adds a problem if the files have lost all users of the policy before them and do not say that they mean it.
func (r *Reading) Lost(before *Set) {
	if len(before.users) == 0 || len(r.unread) > 0 {
		return
	}
	users, file := 0, ""
	for _, f := range r.files {
		if f.doc == nil || len(f.Users) == 0 && f.doc.Has("users") {
			return // what it says can't be told, or it says that there are none
		}
		users += len(f.Users)
		file = f.source.File
	}
	if users == 0 {
		r.checker.problems = append(r.checker.problems, strictyaml.Problem{
			File: file, Line: 1, Column: 1,
			Message: "the policy has lost all its users: write users: [] if nobody is to get in",
		})
	}
}

// within reports whether file is path or in the folder path.
func within(file, path string) bool {
	path = filepath.Clean(path)
	return file == path || strings.HasPrefix(file, path+string(filepath.Separator))
}
