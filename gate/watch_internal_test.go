package gate

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file that gets another content of the same length, and its old times back, is seen to have changed, under its own name
// and through links.
func TestLookSeesWhatKeepsItsTimes(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file, link := filepath.Join(folder, "p.yaml"), filepath.Join(folder, "link")
	moment := time.Unix(1, 0)
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, moment, moment); err != nil {
			t.Fatal(err)
		}
	}
	write("until: 2026-11-26T10:00:00Z")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, paths := range [][]string{{file}, {link}, {folder}} {
		before := look(paths)
		if !look(paths).same(before) {
			t.Errorf("%v: a change was seen where there was none", paths)
		}
		for deadline := time.Now().Add(time.Second); look(paths).same(before); { // the kernel's clock may have ticked only then
			if time.Now().After(deadline) {
				t.Fatalf("%v: the change was not seen", paths)
			}
			write("until: 2026-11-26T09:00:00Z")
		}
	}
}
