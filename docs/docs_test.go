// Package docs_test checks the documents: the commands in them run, print what is said, and links lead somewhere.
//
// A fenced block after a line `<!-- run -->` is run by bash, one document's blocks after one another in one folder, in front
// of a PostgreSQL that nothing was done on; `<!-- run in the background -->` goes on until the document's end, and the next
// block waits for it. A block after `<!-- output -->` is what the block before it prints; an … in it stands for anything.
// The documents' names of hosts and people become those of the test.
package docs_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// documents are all that people read.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "*.md", "../deploy/*/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, files...)
	}
	return all
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

var marked = regexp.MustCompile("(?m)^<!-- (run|run in the background|output) -->\n+```[a-z]*\n((?:.*\n)*?)```$")

func TestCommands(t *testing.T) {
	ran := 0
	for _, file := range documents(t) {
		blocks := marked.FindAllStringSubmatch(read(t, file), -1)
		if len(blocks) == 0 {
			continue
		}
		ran++
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			r := newReader(t)
			for _, block := range blocks {
				r.follow(t, block[1], block[2])
			}
		})
	}
	if ran == 0 {
		t.Error("no document has commands that are run")
	}
}

// reader is somebody who does what a document says.
type reader struct {
	folder  string
	names   *strings.Replacer
	env     []string
	printed string // by the last block
}

const dbaPassword = "the DBA's password"

// newReader has a PostgreSQL with a database of an application's, a DBA, and hourgate on the path.
func newReader(t *testing.T) *reader {
	t.Helper()
	db := pgtest.New(t, 15, pgtest.Options{}).Database(t) // of its own: each document makes hourgate_owner
	dba := "dba_" + strings.ToLower(rand.Text()[:8])
	if _, err := db.Superuser(t).Exec(t.Context(), fmt.Sprintf("CREATE ROLE %s LOGIN SUPERUSER PASSWORD '%s'", dba, strings.ReplaceAll(dbaPassword, "'", "''"))); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	listen, ops := strconv.Itoa(pgtest.FreePort()), strconv.Itoa(pgtest.FreePort())
	return &reader{
		folder: folder,
		names: strings.NewReplacer(
			"--host db.example.com", fmt.Sprintf("--host localhost --port %d --ssl-root-cert %s --listen 127.0.0.1:%s --ops-listen 127.0.0.1:%s", db.Server.Port, db.Server.CAFile, listen, ops),
			"--database orders", "--database "+db.Name+" --name orders --admin-user admin_"+dba, "--dba-user postgres", "--dba-user "+dba,
			"port=6432", "port="+listen, "localhost:9187", "localhost:"+ops, "the owner's table", "orders"),
		env: append(os.Environ(), "PATH="+filepath.Dir(gatetest.Binary(t))+":"+os.Getenv("PATH"), "LC_ALL=C",
			"DBA_PASSWORD="+dbaPassword, "PGCONNECT_TIMEOUT=10"),
	}
}

// follow runs a block, or compares it with what the last one printed.
func (r *reader) follow(t *testing.T, kind, block string) {
	t.Helper()
	if kind == "output" {
		if want := pattern(block); !regexp.MustCompile(want).MatchString(r.printed) {
			t.Errorf("got\n%s\nwant\n%s", r.printed, block)
		}
		return
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", r.names.Replace(block))
	cmd.Dir, cmd.Env = r.folder, r.env
	var out gatetest.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if kind == "run" {
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v in\n%s\n%s", err, r.names.Replace(block), out.String())
		}
		r.printed = out.String()
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("%v of\n%s\n%s", err, block, out.String())
		}
	})
	eventually.True(t, "the gate opens", func() bool { return strings.Contains(out.String(), "gate open") })
}

// pattern is a regular expression of what a document says is printed.
func pattern(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " ")), "…", `.*?`)
	}
	return strings.Join(lines, ` *\n`)
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks follows the links between documents, to their sections too.
func TestLinks(t *testing.T) {
	for _, file := range documents(t) {
		text := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(read(t, file), "")
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target := match[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			path, section, _ := strings.Cut(target, "#")
			to := file
			if path != "" {
				to = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %s leads nowhere", file, target)
			} else if section != "" && !bytes.Contains([]byte(sections(read(t, to))), []byte("\n"+section+"\n")) {
				t.Errorf("%s: %s has no section %s", file, path, section)
			}
		}
	}
}

// sections are the anchors of a document's headings, as GitHub makes them, a line each.
func sections(text string) string {
	var b strings.Builder
	b.WriteString("\n")
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		b.WriteString(strings.ReplaceAll(anchor, " ", "-") + "\n")
	}
	return b.String()
}
