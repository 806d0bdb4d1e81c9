// Package wholefile keeps small documents in files of ours, each whole or not at all. It holds no lock: one process writes a file.
package wholefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hourgate/hourgate/internal/descriptors"
)

// Read decodes a file (JSON) into v, which stays as it is when there is no file. file may be "",
// and there is none then.
func Read(file string, v any) error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
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
