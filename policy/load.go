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

// Load reads the policy files at paths into one Set; see [Read]. The error is [strictyaml.Problems] with all that is wrong
// in all files.
func Load(paths []string, integrations map[string]string, known ...Known) (*Set, error) {
	return Read(paths, integrations, known...).Set()
}

// Parse is Load for files that were read already.
func Parse(sources []Source, integrations map[string]string, known ...Known) (*Set, error) {
	return ReadSources(sources, integrations, known...).Set()
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

// readAll reads the files at paths, each once however often it is named. failed is an error that may pass by itself.
func readAll(paths []string) (sources []Source, problems strictyaml.Problems, failed error) {
	unread := func(path string, err error) {
		problems = append(problems, unreadable(path, err))
		var call *fs.PathError
		if errors.As(err, &call) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			failed = err
		}
	}
	seen := map[string]bool{}
	for _, path := range paths {
		files, err := expand(path)
		if err != nil {
			unread(path, err)
		}
		for _, file := range files {
			if seen[filepath.Clean(file)] {
				continue
			}
			seen[filepath.Clean(file)] = true
			data, err := read(file)
			if err != nil {
				unread(file, err)
				continue
			}
			sources = append(sources, Source{File: file, Data: data})
		}
	}
	return sources, problems, failed
}

// errNoFiles is a folder that was swapped or emptied, or that is not the one that was meant.
var errNoFiles = errors.New("the folder holds no policy file (*.yaml or *.yml)")

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
	if len(files) == 0 {
		return nil, errNoFiles
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
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return strictyaml.Problem{File: path, Message: "no such file or folder"}
	case errors.Is(err, errNoFiles):
		return strictyaml.Problem{File: path, Message: err.Error()}
	}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return strictyaml.Problem{File: path, Message: fmt.Sprintf("cannot be read: %v", err)}
}
