// Package wholefile keeps small documents in files of ours, each whole or not at all. It holds no lock: one process writes a file.
package wholefile

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hourgate/hourgate/internal/descriptors"
)

// Read decodes a file (JSON) into v, which stays as it is when there is no file. file may be "",
// and there is none then.
func Read(file string, v any) error {
	if file == "" {
		return nil
	}
	data, err := Content(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	return nil
}

// maxContent bounds what is read of a file: far more than any of ours has.
const maxContent = 64 << 20

// Content is os.ReadFile for files that somebody else may put something in place of: what is no regular file is an error, and not
// something to wait for, as a pipe without a writer would be. So is one of more than 64 MiB.
func Content(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, &fs.PathError{Op: "reading", Path: file, Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "reading", Path: file, Err: errors.New("not a regular file")}
	case info.Size() > maxContent:
		return nil, &fs.PathError{Op: "reading", Path: file, Err: fmt.Errorf("larger than %d MiB", maxContent>>20)}
	}
	return io.ReadAll(io.LimitReader(f, maxContent))
}

// KeyPair is [tls.LoadX509KeyPair] for such files.
func KeyPair(certFile, keyFile string) (tls.Certificate, error) {
	chain, err := Content(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := Content(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(chain, key)
}

// Write replaces a file (JSON, mode 0600) whole or not at all, also when the machine loses power.
func Write(file string, v any) error {
	if file == "" {
		return nil
	}
	defer descriptors.Borrow()() // what ends access, or keeps it narrow, must be kept
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	folder, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
