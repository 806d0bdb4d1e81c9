package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// A Source is the content of one policy file; File is its name in problems.
type Source struct {
	File string
	Data []byte
}

// Load reads the policy files at paths into one Set: users of one file may stand in grants of another. A folder among
// paths stands for each *.yaml and *.yml in it, but not for hidden files or folders within. integrations has the name
// of each integration and its default database, and known what else there is to say of them, if anything. The error is
// [strictyaml.Problems] with all that is wrong in all files.
func Load(paths []string, integrations map[string]string, known ...Known) (*Set, error) {
	sources, problems := readAll(paths)
	return parse(sources, integrations, known, problems)
}

// Read returns the files that Load would parse, for keeping them. The error is as Load's.
func Read(paths []string) ([]Source, error) {
	sources, problems := readAll(paths)
	return sources, problems.Err()
}

// Parse is Load for files that were read already.
func Parse(sources []Source, integrations map[string]string, known ...Known) (*Set, error) {
	return parse(sources, integrations, known, nil)
}

// content is the schema of a policy file.
type content struct {
	Users     []*User  `yaml:"users"`
	Groups    []*Group `yaml:"groups"`
	Operators *People  `yaml:"operators"`
	Grants    []*Grant `yaml:"grants"`
	Flows     []*Flow  `yaml:"access_flows"`
	// TrustedTags are the tags of servers that may decide which grants and flows are about them.
	TrustedTags []string `yaml:"trusted_tags"`
}

// parse adds to unread, the problems of files that could not be read.
func parse(sources []Source, integrations map[string]string, known []Known, unread strictyaml.Problems) (*Set, error) {
	c := newChecker(integrations)
	if len(known) > 0 {
		c.known = known[0]
	}
	c.problems = unread
	c.partial = len(unread) > 0
	var files []decoded
	for _, s := range sources {
		if f, ok := c.decode(s); ok {
			files = append(files, f)
		}
	}
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
	if err := c.problems.Err(); err != nil {
		return nil, err
	}
	for _, f := range files {
		for _, g := range f.Grants {
			all.Grants = append(all.Grants, c.resolved(g)...)
		}
		for _, flow := range f.Flows {
			c.resolve(flow)
		}
	}
	set := newSet(all, c.member, integrations)
	set.notes = c.notes
	return set, nil
}

// readAll reads the files at paths, each once however often it is named.
func readAll(paths []string) ([]Source, strictyaml.Problems) {
	var sources []Source
	var problems strictyaml.Problems
	seen := map[string]bool{}
	for _, path := range paths {
		files, err := expand(path)
		if err != nil {
			problems = append(problems, unreadable(path, err))
		}
		for _, file := range files {
			if seen[filepath.Clean(file)] {
				continue
			}
			seen[filepath.Clean(file)] = true
			data, err := read(file)
			if err != nil {
				problems = append(problems, unreadable(file, err))
				continue
			}
			sources = append(sources, Source{File: file, Data: data})
		}
	}
	return sources, problems
}

// expand returns path itself or, when it is a folder, the policy files in it, sorted.
func expand(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || ext != ".yaml" && ext != ".yml" {
			continue
		}
		files = append(files, filepath.Join(path, e.Name()))
	}
	return files, nil
}

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		// Opening a pipe would wait for a writer, for ever.
		return nil, errors.New("not a regular file")
	case info.Size() > strictyaml.MaxSize:
		return nil, fmt.Errorf("larger than %d MiB", strictyaml.MaxSize>>20)
	}
	return os.ReadFile(path)
}

func unreadable(path string, err error) strictyaml.Problem {
	if errors.Is(err, fs.ErrNotExist) {
		return strictyaml.Problem{File: path, Message: "no such file or folder"}
	}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return strictyaml.Problem{File: path, Message: fmt.Sprintf("cannot be read: %v", err)}
}
