// Package testdisk makes small disks for tests, which can be frozen as a snapshot freezes them: whoever writes then
// sleeps in the kernel until the thaw. It needs root, mkfs.ext4, mount and fsfreeze.
package testdisk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/eventually"
)

// Disk is a file system of its own.
type Disk struct {
	Folder string // where it is mounted

	t         testing.TB
	mu        sync.Mutex
	frozen    bool
	protected bool // at some time, see Protect
	failed    bool // see Fail; the test's goroutine
}

// Size of a disk of New, in bytes.
const Size = 64 << 20

// New makes a disk of Size. It goes with the test.
func New(t testing.TB) *Disk {
	t.Helper()
	return NewSize(t, Size)
}

// NewSize makes a disk of another size.
func NewSize(t testing.TB, size int64) *Disk {
	t.Helper()
	d := &Disk{Folder: filepath.Join(t.TempDir(), "disk"), t: t}
	if err := os.Mkdir(d.Folder, 0o700); err != nil {
		t.Fatal(err)
	}
	d.run("mount", "-o", "loop", d.format(size), d.Folder)
	d.unmountAfter()
	return d
}

// Over makes a disk of that size in place of a folder, with what is in it, and with its owner. Nobody may use the folder meanwhile, nor
// when the test ends.
func Over(t testing.TB, folder string, size int64) *Disk {
	t.Helper()
	d := &Disk{Folder: folder, t: t}
	image, filled := d.format(size), t.TempDir()
	d.run("mount", "-o", "loop", image, filled)
	d.run("cp", "-a", folder+"/.", filled)
	d.unmount(filled)
	d.run("mount", "-o", "loop", image, folder)
	d.unmountAfter()
	return d
}

// format makes a file with a file system.
func (d *Disk) format(size int64) (image string) {
	d.t.Helper()
	image = filepath.Join(d.t.TempDir(), "disk.img")
	f, err := os.Create(image)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		d.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		d.t.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", image)
	return image
}

func (d *Disk) unmountAfter() {
	d.t.Cleanup(func() {
		d.Thaw()
		if d.protected && !d.failed {
			d.protect("-i")
		}
		d.unmount(d.Folder)
	})
}

// unmount waits for whoever still has a file open there: a child that another test starts has all files of this process open, until it
// becomes its program.
func (d *Disk) unmount(folder string) {
	d.t.Helper()
	eventually.True(d.t, "nothing on the disk is open", func() bool {
		err := syscall.Unmount(folder, 0)
		if err != nil && !errors.Is(err, syscall.EBUSY) {
			d.t.Fatalf("unmounting %s: %v", folder, err)
		}
		return err == nil
	})
}

// Freeze lets nobody write any more.
func (d *Disk) Freeze() {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.run("fsfreeze", "--freeze", d.Folder)
	d.frozen = true
}

// Thaw lets everybody write again. It may be called when the disk is not frozen.
func (d *Disk) Thaw() {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.frozen {
		d.run("fsfreeze", "--unfreeze", d.Folder)
		d.frozen = false
	}
}

// Protect lets nobody write to the disk's files, open ones too, nor make or remove one. What the kernel says is EPERM, and not
// the EROFS of a file system that is mounted so: one with open files can't be.
func (d *Disk) Protect() (release func()) {
	d.t.Helper()
	d.protected = true
	d.protect("+i")
	return func() { d.protect("-i") }
}

func (d *Disk) protect(how string) {
	d.t.Helper()
	args := []string{how}
	_ = filepath.WalkDir(d.Folder, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || e.Type().IsRegular()) { // links have no such attribute
			args = append(args, path)
		}
		return nil
	})
	d.run("chattr", args...)
}

// Fill leaves no room, until the function that it returns is called.
func (d *Disk) Fill() (free func()) {
	d.t.Helper()
	file := filepath.Join(d.Folder, "filling")
	out, err := os.Create(file)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, size := range []int{1 << 20, 1 << 12, 1} { // to the last byte
		for err = nil; err == nil; {
			_, err = out.Write(make([]byte, size))
		}
	}
	_ = out.Close()
	return func() {
		d.t.Helper()
		if err := os.Remove(file); err != nil {
			d.t.Fatal(err)
		}
	}
}

// Fail makes the disk read-only at once, as the kernel does with one that has errors. It stays so.
func (d *Disk) Fail() {
	d.t.Helper()
	d.run("mount", "-o", "remount,abort", d.Folder)
	d.failed = true
}

func (d *Disk) run(program string, args ...string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", program, err, out)
	}
}
