package discover

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

// entry is one server in a file's list.
type entry struct {
	ID             string                  `yaml:"id"` // what it is told apart by; default: name
	Name           string                  `yaml:"name"`
	Hostname       string                  `yaml:"hostname"`
	Port           uint16                  `yaml:"port"`
	Database       string                  `yaml:"database"`
	Readers        []string                `yaml:"readers"` // host or host:port
	Labels         map[string]string       `yaml:"labels"`
	SSLMode        upstream.SSLMode        `yaml:"ssl_mode"`
	SSLRootCert    string                  `yaml:"ssl_root_cert"`
	SSLNegotiation upstream.SSLNegotiation `yaml:"ssl_negotiation"`
	SSLServerName  string                  `yaml:"ssl_server_name"`
	Secret         secrets.Config          `yaml:"secret"`
}

// fileSource is a file that another program writes. A file that can't be used changes nothing: the last list stays. What is
// not in the list any more stays for relookPause, because half a list of YAML may be a list too.
type fileSource struct {
	cfg     *File
	log     *slog.Logger
	watcher *fsnotify.Watcher // of the folder: programs replace files by renaming others over them
	wake    chan struct{}     // capacity 1
	last    answer
	missing map[string]time.Time // by ID, what the last list did not have, and since when
}

const (
	settleDelay = 100 * time.Millisecond // lets the writer finish
	relookPause = 2 * time.Second        // until what is missing is looked for again
)

func newFileSource(c *File, log *slog.Logger) *fileSource {
	f := &fileSource{cfg: c, log: log, wake: make(chan struct{}, 1)}
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		err = watcher.Add(filepath.Dir(c.Path))
	}
	if err != nil {
		log.Warn("changes will be noticed by polling only", "file", c.Path, "error", err)
		if watcher != nil {
			_ = watcher.Close()
		}
		return f
	}
	f.watcher = watcher
	go f.listen()
	return f
}

// listen wakes the poll after changes in the folder, until close.
func (f *fileSource) listen() {
	for {
		select {
		case _, ok := <-f.watcher.Events:
			if !ok {
				return
			}
			time.AfterFunc(settleDelay, func() {
				select {
				case f.wake <- struct{}{}:
				default: // it is due already
				}
			})
		case err, ok := <-f.watcher.Errors:
			if !ok {
				return
			}
			f.log.Warn("watching files", "error", err)
		}
	}
}

func (f *fileSource) changed() <-chan struct{} { return f.wake }
func (f *fileSource) pause() time.Duration     { return f.cfg.Interval }

func (f *fileSource) close() {
	if f.watcher != nil {
		_ = f.watcher.Close()
	}
}

func (f *fileSource) poll(context.Context) answer {
	place := Place{Source: "file", File: f.cfg.Path, Kind: List}
	found, err := readList(f.cfg.Path, place)
	status := Status{Place: place, Err: err}
	f.last.again = 0
	if err == nil {
		status.Asked = time.Now()
		f.take(found, status.Asked)
	} else if len(f.last.status) > 0 {
		status.Asked = f.last.status[0].Asked
	}
	status.Found = len(f.last.found)
	f.last.status = []Status{status}
	return f.last
}

// take keeps a list, and for relookPause what it does not have any more: one write is often several events, and each is a look.
func (f *fileSource) take(now []Integration, at time.Time) {
	there, taken := make(map[string]bool, len(now)), make(map[string]bool, len(now))
	for _, i := range now {
		there[i.ID], taken[i.Name] = true, true
	}
	missing := make(map[string]time.Time)
	for _, i := range f.last.found {
		if there[i.ID] || taken[i.Name] {
			continue
		}
		since, known := f.missing[i.ID]
		if !known {
			since = at
		}
		left := relookPause - at.Sub(since)
		if left <= 0 {
			continue
		}
		if f.last.again == 0 || left < f.last.again {
			f.last.again = left
		}
		i.NotReady, missing[i.ID] = missingNow, since
		now = append(now, i)
	}
	f.last.found, f.missing = now, missing
}

// readList reads the whole file, or nothing of it.
func readList(path string, place Place) ([]Integration, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: no such file", path)
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // opening a pipe would wait for a writer, for ever
		return nil, fmt.Errorf("%s: not a regular file", path)
	case info.Size() > strictyaml.MaxSize:
		return nil, fmt.Errorf("%s: larger than %d MiB", path, strictyaml.MaxSize>>20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseList(path, data, place)
}

func parseList(path string, data []byte, place Place) ([]Integration, error) {
	if json.Valid(data) {
		data = asYAML(data)
	}
	var entries []entry
	doc, err := strictyaml.Decode(path, data, &entries)
	var problems strictyaml.Problems
	errors.As(err, &problems)
	if doc == nil {
		return nil, problems
	}
	c := listChecker{doc: doc, problems: problems, folder: filepath.Dir(path), names: make(map[string]int), ids: make(map[string]int)}
	found := make([]Integration, 0, len(entries))
	for n := range entries {
		found = append(found, c.integration(n, &entries[n], place))
	}
	if err := c.problems.Err(); err != nil {
		return nil, err
	}
	return found, nil
}

// jsonOnly are the escapes of JSON that our reader of YAML does not know; the others are matched so that they are skipped.
var jsonOnly = regexp.MustCompile(`\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|.)`)

// asYAML rewrites valid JSON where it is no YAML, and leaves its lines as they are.
func asYAML(data []byte) []byte {
	data = bytes.ReplaceAll(data, []byte("\t"), []byte(" ")) // valid JSON has tabs between values only
	return jsonOnly.ReplaceAllFunc(data, func(escape []byte) []byte {
		var text string
		switch {
		case string(escape) == `\/`:
			return []byte("/")
		case len(escape) == len(`\ud83d\ude00`) && json.Unmarshal([]byte(`"`+string(escape)+`"`), &text) == nil:
			return []byte(text)
		}
		return escape
	})
}

type listChecker struct {
	doc        *strictyaml.Document
	problems   strictyaml.Problems
	folder     string
	names, ids map[string]int
}

func (c *listChecker) report(n int, key, format string, args ...any) {
	if path := fmt.Sprintf("[%d].%s", n, key); c.doc.Sound(path) {
		c.problems = append(c.problems, c.doc.Problem(path, fmt.Sprintf(format, args...)))
	}
}

// integration checks an entry as the configuration's integrations are checked.
func (c *listChecker) integration(n int, e *entry, place Place) Integration {
	d := Defaults{Database: e.Database, SSLMode: e.SSLMode, SSLRootCert: e.SSLRootCert, SSLNegotiation: e.SSLNegotiation}.filled()
	for key, value := range map[string]string{"name": e.Name, "hostname": e.Hostname, "database": e.Database} {
		if value == "" {
			c.report(n, key, "required")
		}
	}
	if why := badName(e.Name); why != "" {
		c.report(n, "name", "%s", why)
	}
	id := cmp.Or(e.ID, e.Name)
	c.once(n, "name", e.Name, c.names)
	if e.ID != "" {
		c.once(n, "id", id, c.ids)
	}
	server := Server{Host: e.Hostname, Port: cmp.Or(e.Port, 5432), Name: e.SSLServerName}
	settings := upstream.Config{Host: server.Host, Port: server.Port, SSLMode: d.SSLMode, SSLNegotiation: d.SSLNegotiation, RootCert: d.SSLRootCert, ServerName: e.SSLServerName}
	for _, p := range settings.Problems() {
		c.report(n, p.Path, "%s", p.Message)
	}
	switch err := e.Secret.Validate(); {
	case err != nil:
		c.report(n, "secret", "%v", err)
	case e.Secret.Command != nil:
		c.report(n, "secret.command", "is for the configuration only: whoever writes this file may not run programs here")
	}
	i := Integration{
		ID: "file " + place.File + " " + id, Name: e.Name, Place: place, Identifier: id, Engine: "postgres",
		Writer: server, Database: d.Database, SSLMode: d.SSLMode, SSLRootCert: c.path(d.SSLRootCert), SSLNegotiation: d.SSLNegotiation,
		Secret: c.secret(e.Secret), Labels: make(map[string]Label, len(e.Labels)),
	}
	for key, value := range e.Labels {
		i.Labels[key] = Label{Value: value, Tags: []string{key}}
	}
	for k, text := range e.Readers {
		reader, err := ParseReader(text, server.Port)
		if err != nil {
			c.report(n, fmt.Sprintf("readers[%d]", k), "%v", err)
		}
		i.Readers = append(i.Readers, reader)
	}
	return i
}

// ParseReader reads host or host:port.
func ParseReader(text string, port uint16) (Server, error) {
	if s, err := parseServer(text); err == nil {
		return s, nil
	}
	if text == "" || bytes.ContainsAny([]byte(text), ":/ ") {
		return Server{}, fmt.Errorf("want host or host:port, got %q", text)
	}
	return Server{Host: text, Port: port}, nil
}

func (c *listChecker) once(n int, key, value string, seen map[string]int) {
	if first, taken := seen[value]; taken && value != "" {
		c.report(n, key, "%q is taken by [%d]", value, first)
		return
	}
	seen[value] = n
}

// path is relative to the file's folder, as paths in the configuration are to its own.
func (c *listChecker) path(p string) string {
	if p == "" || filepath.IsAbs(p) || slices.Contains([]string{upstream.RootsSystem, upstream.RootsRDS}, p) {
		return p
	}
	return filepath.Join(c.folder, p)
}

func (c *listChecker) secret(s secrets.Config) secrets.Config {
	s.File = c.path(s.File)
	if s.HashiCorpVault != nil {
		vault := *s.HashiCorpVault
		vault.TokenFile, vault.CAFile = c.path(vault.TokenFile), c.path(vault.CAFile)
		s.HashiCorpVault = &vault
	}
	return s
}
