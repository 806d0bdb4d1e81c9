package testdisk_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hourgate/hourgate/internal/testdisk"
)

// A protected disk takes nothing, through files that are open either; then it does again.
func TestProtect(t *testing.T) {
	disk := testdisk.New(t)
	file := filepath.Join(disk.Folder, "file")
	if err := os.Symlink(file, file+".link"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	release := disk.Protect()
	if _, err := f.WriteString("x"); !errors.Is(err, syscall.EPERM) {
		t.Errorf("writing: got %v, want %v", err, syscall.EPERM)
	}
	if err := os.Remove(file); !errors.Is(err, syscall.EPERM) {
		t.Errorf("removing: got %v, want %v", err, syscall.EPERM)
	}
	release()
	if _, err := f.WriteString("x"); err != nil {
		t.Error(err)
	}
}
