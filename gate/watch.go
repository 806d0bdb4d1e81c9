package gate

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hourgate/hourgate/internal/descriptors"
	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/wholefile"
)

// Watched files are looked at, and not listened to: a look by name sees everything that notifications of the file system
// miss, such as a link that leads elsewhere, a folder that was removed and made again, and a network mount.
const (
	// watchInterval is how often files are looked at. A look takes some microseconds a file.
	watchInterval = 100 * time.Millisecond
	// watchShare bounds the time that looking takes where there are thousands of files: one part in so many.
	watchShare = 50
	// stillFor is how long files must not have changed before they are read: who writes a file anew empties it first.
	stillFor = 100 * time.Millisecond
	// stillAtMost is when they are read although they are still changing.
	stillAtMost = 2 * time.Second
	// retryReload is when what could not be read is tried again.
	retryReload = time.Second
)

// watch reloads when files change and when reload is signalled, until ctx is done.
func (g *Gate) watch(ctx context.Context, reload <-chan os.Signal) {
	seen := g.cfg.seen
	last := look(g.cfg.watched())
	failed := g.reloadChanged(&seen) // what changed between loading and watching
	tried := time.Now()
	interval := watchInterval
	for {
		timer := time.NewTimer(interval)
		select {
		case <-timer.C:
		case <-reload:
			timer.Stop()
			g.log.Info("reloading because of SIGHUP")
			giveBack := descriptors.Borrow()
			seen = fingerprints{}
			failed, tried = g.reloadChanged(&seen), time.Now()
			g.reopen() // behind what may withdraw access: it may have to wait for a disk
			last = look(g.cfg.watched())
			giveBack()
			continue
		case <-ctx.Done():
			timer.Stop()
			return
		}
		g.reopenAgain()
		giveBack := descriptors.Borrow() // without them a folder would look empty
		began := time.Now()
		now := look(g.cfg.watched())
		interval = max(watchInterval, watchShare*time.Since(began))
		switch {
		case !now.same(last):
			last = g.still(ctx, now)
			failed, tried = g.reloadChanged(&seen), time.Now()
		case failed != nil && time.Since(tried) > retryReload:
			g.log.Warn("trying again what could not be read", "error", failed)
			seen = fingerprints{}
			failed, tried = g.reloadChanged(&seen), time.Now()
		}
		giveBack()
	}
}

// reloadChanged reloads what has another content than seen, which it brings up to date. The content is taken before it is
// loaded: what changes meanwhile is noticed the next time. failed is what could not be read although it is there.
func (g *Gate) reloadChanged(seen *fingerprints) (failed error) {
	before := *seen
	now, unread := g.cfg.fingerprints()
	*seen = now
	p := parts{config: now.config != before.config, tls: now.tls != before.tls, policy: now.policy != before.policy}
	failed = errors.Join(g.reload(p), unread)
	if p.config && failed == nil {
		_, failed = g.cfg.fingerprints() // the configuration names files that are looked into by others
	}
	return failed
}

// still waits until the files have not changed for a moment, and returns how they look then.
func (g *Gate) still(ctx context.Context, now snapshot) snapshot {
	for deadline := time.Now().Add(stillAtMost); time.Now().Before(deadline); {
		select {
		case <-time.After(stillFor):
		case <-ctx.Done():
			return now
		}
		next := look(g.cfg.watched())
		if next.same(now) {
			break
		}
		now = next
	}
	return now
}

// snapshot is how files look from outside, in the order of their names.
type snapshot []lookedAt

type lookedAt struct {
	name string
	info os.FileInfo // nil if there is none
}

// look takes a snapshot of files and of the files in folders. Links are followed.
func look(paths []string) snapshot {
	var s snapshot
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			info = nil
		}
		s = append(s, lookedAt{path, info})
		if info == nil || !info.IsDir() {
			continue
		}
		entries, _ := os.ReadDir(path) // none if the folder has just gone, which the next look sees
		for _, entry := range entries {
			file := filepath.Join(path, entry.Name())
			info, err := os.Stat(file)
			if err != nil {
				info = nil
			}
			s = append(s, lookedAt{file, info})
		}
	}
	return s
}

func (s snapshot) same(o snapshot) bool {
	if len(s) != len(o) {
		return false
	}
	for i, a := range s {
		b := o[i]
		switch {
		case a.name != b.name, (a.info == nil) != (b.info == nil):
			return false
		case a.info == nil:
		case !os.SameFile(a.info, b.info), a.info.Mode() != b.info.Mode(), a.info.Size() != b.info.Size(),
			!a.info.ModTime().Equal(b.info.ModTime()), !changed(a.info).Equal(changed(b.info)):
			return false
		}
	}
	return true
}

// watched are the files and folders whose change is a reason to reload.
func (c *Config) watched() []string {
	paths := append([]string{c.file}, c.tlsFiles()...)
	return append(paths, c.Policy...)
}

func (c *Config) tlsFiles() []string {
	files := []string{c.TLS.CertFile, c.TLS.KeyFile}
	if c.TLS.ClientCAFile != "" {
		files = append(files, c.TLS.ClientCAFile)
	}
	return files
}

// fingerprint is a hash of files' names and contents. Files that are not there, or can't be read, count for nothing.
type fingerprint [sha256.Size]byte

// fingerprints are those of what is reloaded by itself.
type fingerprints struct{ config, tls, policy fingerprint }

// fingerprints returns those of the files as they are, and why one could not be read, if that may pass.
func (c *Config) fingerprints() (now fingerprints, unread error) {
	var errs [3]error
	now.config, errs[0] = fingerprintOf([]string{c.file})
	now.tls, errs[1] = fingerprintOf(c.tlsFiles())
	now.policy, errs[2] = fingerprintOf(c.Policy)
	return now, errors.Join(errs[:]...)
}

func fingerprintOf(paths []string) (fingerprint, error) {
	h := sha256.New()
	var unread error
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			unread = errors.Join(unread, hashFile(h, path))
			continue
		}
		entries, err := os.ReadDir(path)
		if mayPass(err) {
			unread = errors.Join(unread, err)
		}
		for _, entry := range entries {
			unread = errors.Join(unread, hashFile(h, filepath.Join(path, entry.Name())))
		}
	}
	return fingerprint(h.Sum(nil)), unread
}

// mayPass reports an error of reading that can be over although no file has changed.
func mayPass(err error) bool {
	return err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission)
}

// hashFile adds a file. Its error is one that may pass.
func hashFile(h hash.Hash, file string) error {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > strictyaml.MaxSize { // the last two are no policy, which a reload says
		return nil
	}
	content, err := wholefile.Content(file)
	switch {
	case mayPass(err):
		return err
	case err != nil:
		return nil
	}
	sum := sha256.Sum256(content)
	h.Write([]byte(file))
	h.Write(sum[:])
	return nil
}
