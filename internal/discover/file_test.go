package discover_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/upstream"
)

const listed = `
- name: orders
  id: 7
  hostname: orders.example.com
  database: orders
  ssl_root_cert: ca.pem
  labels: {env: prod}
  readers: [ro.example.com, "ro2.example.com:6000"]
  secret: {file: orders.json}
`

// put replaces a file as programs do that care.
func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func fileEntry(t *testing.T, content string) (path string, entry discover.Config) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "list.yaml")
	put(t, path, content)
	return path, discover.Config{File: &discover.File{Path: path}}
}

func TestFile(t *testing.T) {
	t.Parallel()
	path, entry := fileEntry(t, listed)
	w := watch(t, discover.Options{}, entry)
	orders := w.until(t, "orders", named("orders"))[0]
	folder := filepath.Dir(path)
	if orders.Writer.String() != "orders.example.com:5432" || orders.SSLMode != upstream.VerifyFull || orders.SSLRootCert != filepath.Join(folder, "ca.pem") ||
		orders.Secret.File != filepath.Join(folder, "orders.json") || orders.NotReady != "" {
		t.Errorf("got %+v", orders)
	}
	if diff := cmp.Diff([]discover.Server{{Host: "ro.example.com", Port: 5432}, {Host: "ro2.example.com", Port: 6000}}, orders.Readers); diff != "" {
		t.Errorf("readers: %s", diff)
	}
	// Its labels are what another program says, so a policy has to trust them as it has to trust tags.
	if diff := cmp.Diff(map[string]discover.Label{"env": {Value: "prod", Tags: []string{"env"}}}, orders.Labels); diff != "" {
		t.Errorf("labels: %s", diff)
	}

	put(t, path, strings.ReplaceAll(listed, "name: orders", "name: renamed")+"- {name: b, hostname: h, database: d, secret: {env: X}}\n")
	all := w.until(t, "the change", named("b", "renamed"))
	if all[1].ID != orders.ID {
		t.Errorf("a rename changed the identity from %s to %s", orders.ID, all[1].ID)
	}

	// A list that can't be used changes nothing, and is seen.
	for content, want := range map[string]string{"- {name: b": "did not find", "- {name: b, hostname: h}": "[0].database: required"} {
		put(t, path, content)
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if err := w.Report().Failures(); err != nil && strings.Contains(err.Error(), want) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the failure is not seen: %v", w.Report().Failures())
			}
		}
		if got := names(w.Report().Integrations); !slices.Equal(got, []string{"b", "renamed"}) {
			t.Errorf("after a bad list: %v", got)
		}
	}
	put(t, path, "[]")
	w.until(t, "both missing", func(all []discover.Integration) bool {
		return len(all) == 2 && all[0].NotReady != "" && all[1].NotReady != ""
	})
	w.until(t, "nothing", func(all []discover.Integration) bool { return len(all) == 0 })
}

// Half a list of YAML may be a list. What it lacks is still known when the rest is there.
func TestFileThatIsHalfWritten(t *testing.T) {
	t.Parallel()
	const first, second = "- {name: a, hostname: h, database: d, secret: {env: X}}\n", "- {name: b, hostname: h, database: d, secret: {env: X}}\n"
	path, entry := fileEntry(t, first+second)
	w := watch(t, discover.Options{}, entry)
	w.until(t, "both", named("a", "b"))
	if err := os.WriteFile(path, []byte(first), 0o600); err != nil { // no rename: it is written in place
		t.Fatal(err)
	}
	all := w.until(t, "b is missing", func(all []discover.Integration) bool { return len(all) == 2 && all[1].NotReady != "" })
	if all[0].NotReady != "" {
		t.Errorf("a: %s", all[0].NotReady)
	}
	if err := os.WriteFile(path, []byte(first+second), 0o600); err != nil {
		t.Fatal(err)
	}
	w.until(t, "b is there again", func(all []discover.Integration) bool { return len(all) == 2 && all[1].NotReady == "" })
	// One that has another's name now stands in its place.
	put(t, path, first+"- {name: b, id: other, hostname: h, database: d, secret: {env: X}}\n")
	w.until(t, "the other b", func(all []discover.Integration) bool {
		return slices.Equal(names(all), []string{"a", "b"}) && all[1].Identifier == "other" && all[1].NotReady == ""
	})
}

// Whatever stands in the file's place, the last list stays, and nobody waits for it.
func TestThingsThatAreNoFile(t *testing.T) {
	t.Parallel()
	path, entry := fileEntry(t, listed)
	w := watch(t, discover.Options{}, entry)
	w.until(t, "orders", named("orders"))
	for want, make := range map[string]func() error{
		"no such file":       func() error { return nil },
		"not a regular file": func() error { return syscall.Mkfifo(path, 0o600) },
		"larger than 8 MiB":  func() error { return os.WriteFile(path, bytes.Repeat([]byte("- {}\n"), 2<<20), 0o600) },
		"the file is empty":  func() error { return os.WriteFile(path, nil, 0o600) },
	} {
		if err := errors.Join(os.RemoveAll(path), make()); err != nil {
			t.Fatal(err)
		}
		eventually.True(t, want, func() bool {
			err := w.Report().Failures()
			return err != nil && strings.Contains(err.Error(), want)
		})
		if got := names(w.Report().Integrations); !slices.Equal(got, []string{"orders"}) {
			t.Errorf("%s: %v", want, got)
		}
	}
	// As Kubernetes mounts a ConfigMap: a link to a link, the inner one of which is replaced.
	folder := filepath.Dir(path)
	if err := errors.Join(
		os.RemoveAll(path), os.Mkdir(filepath.Join(folder, "v1"), 0o700), os.WriteFile(filepath.Join(folder, "v1", "list.yaml"), []byte(strings.ReplaceAll(listed, "name: orders", "name: mounted")), 0o600),
		os.Symlink("v1", filepath.Join(folder, "now")), os.Symlink("now/list.yaml", path),
	); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the mounted one", named("mounted"))
}

func TestFileInJSON(t *testing.T) {
	t.Parallel()
	_, entry := fileEntry(t, "[\n\t{\"name\":\"orders\",\n\t\t\"hostname\": \"h\",\t\"port\": 6000, \"database\": \"d\", \"labels\": {\"mood\": \"\\ud83d\\ude00 \\\\/\"}, \"secret\": {\"file\": \"\\/s\"}}\n]\n")
	if got := find(t, once(t, entry), "orders"); got.Writer.String() != "h:6000" || got.Secret.File != "/s" || got.Labels["mood"].Value != `😀 \/` {
		t.Errorf("got %+v", got)
	}
}

func TestFilesThatAreWrong(t *testing.T) {
	t.Parallel()
	const start = "- {name: a, hostname: h, database: d, "
	for content, want := range map[string]string{
		"":                                 "the file is empty",
		"name: x":                          "want a list",
		"- {}":                             "[0].name: required",
		start + "}":                        "[0].secret: exactly one of",
		start + "secret: {command: [rm]}}": "whoever writes this file may not run programs here",
		start + "secret: {env: X}, ssl_mode: sometimes}":                      "[0].ssl_mode: ",
		start + "secret: {env: X}, readers: ['a b']}":                         "[0].readers[0]: want host or host:port",
		start + "secret: {env: X}}\n" + start + "secret: {env: X}}":           `[1].name: "a" is taken by [0]`,
		"- {name: a/b, hostname: h, database: d, secret: {env: X}}":           "no slash",
		start + "secret: {env: X}, hostnam: x}":                               `did you mean "hostname"?`,
		start + "secret: {env: X}, ssl_root_cert: system, ssl_mode: require}": "[0].ssl_root_cert: system works",
	} {
		_, entry := fileEntry(t, content)
		r := once(t, entry)
		if err := r.Failures(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", content, err, want)
		}
	}
	r := once(t, discover.Config{File: &discover.File{Path: "/nonexistent/list"}})
	if err := r.Failures(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
}
