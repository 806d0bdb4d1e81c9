package audit

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// notRotated are files next to a trail that are no part of it.
var notRotated = regexp.MustCompile(`\.(spool(\.new)?|torn-\d+|cli(\..*)?|new)$`)

// Files returns the files of a trail, the oldest first: the one at path, and those next to it that rotation has left, whose
// names begin with its name and a dot or a dash. They may be compressed, with names that end in ".gz".
func Files(path string) ([]string, error) {
	first := make(map[string]uint64)
	// The one at path is read before the others are listed: who renames it meanwhile makes it one of them.
	for _, pattern := range []string{path, path + ".*", path + "-*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if notRotated.MatchString(name[len(path):]) {
				continue
			}
			r, err := firstRecord(name)
			switch {
			case errors.Is(err, io.EOF): // empty
			case err != nil && name == path:
				return nil, err
			case err == nil:
				first[name] = r.Seq
			}
		}
	}
	var files []string
	for name := range first {
		files = append(files, name)
	}
	slices.SortFunc(files, func(a, b string) int { return cmp.Or(cmp.Compare(first[a], first[b]), cmp.Compare(a, b)) })
	return files, nil
}

// firstRecord reads the first record of a file; io.EOF says that there is none yet.
func firstRecord(name string) (Record, error) {
	f, err := OpenFile(name)
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	line, err := readLine(bufio.NewReader(f), nil)
	if errors.Is(err, ErrTorn) {
		err = io.EOF
	}
	if err != nil {
		return Record{}, err
	}
	return parseLine(line)
}

// OpenFile opens a file of a trail for reading, also a compressed one.
func OpenFile(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil || !strings.HasSuffix(name, ".gz") {
		return f, err
	}
	unzipped, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading %s: %w", name, err), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{unzipped, f}, nil
}
