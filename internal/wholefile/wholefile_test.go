package wholefile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hourgate/hourgate/internal/wholefile"
)

// What is in place of a file is an error at once, and nothing to wait for or to fill the memory with.
func TestContent(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	huge, err := os.Create(at("huge"))
	if err == nil {
		err = errors.Join(huge.Truncate(1<<40), huge.Close())
	}
	err = errors.Join(err, syscall.Mkfifo(at("pipe"), 0o600), os.Symlink(at("pipe"), at("link")), os.Symlink("loop", at("loop")),
		os.WriteFile(at("file"), []byte("content"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"pipe": "not a regular file", "link": "not a regular file", ".": "is a directory", "huge": "larger than", "loop": "symbolic links",
	} {
		if content, err := wholefile.Content(at(name)); content != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %q, %v", name, content, err)
		}
	}
	if _, err := wholefile.Content(at("missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if content, err := wholefile.Content(at("file")); string(content) != "content" || err != nil {
		t.Errorf("got %q, %v", content, err)
	}
}

// What a writer was given last is in its file once Flush has returned, and a file that can't be written is said to lack it.
func TestFlush(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for file, works := range map[string]bool{filepath.Join(folder, "file"): true, filepath.Join(folder, "nowhere", "file"): false} {
		w := wholefile.NewWriter(file)
		for n := range 20 {
			w.Put(n)
		}
		err := w.Flush()
		var got int
		readErr := wholefile.Read(file, &got)
		if works != (err == nil) || works != (w.Trouble() == nil) || readErr != nil || works && got != 19 {
			t.Errorf("%s: flushed %v, trouble %v, read %d, %v", file, err, w.Trouble(), got, readErr)
		}
	}
}
