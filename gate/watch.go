package gate

import (
	"context"
	"crypto/sha256"
	"hash"
	"os"
	"path/filepath"
	"time"

	"github.com/hourgate/hourgate/internal/descriptors"
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
)

// watch reloads when files change and when reload is signalled, until ctx is done.
func (g *Gate) watch(ctx context.Context, reload <-chan os.Signal) {
	seen := g.cfg.seen
	last := look(g.cfg.watched())
	g.reloadChanged(seen, &seen) // what changed between loading and watching
	interval := watchInterval
	for {
		timer := time.NewTimer(interval)
		select {
		case <-timer.C:
		case <-reload:
			timer.Stop()
			g.log.Info("reloading because of SIGHUP")
			giveBack := descriptors.Borrow()
			seen = g.cfg.fingerprints()
			g.reload(parts{config: true, tls: true, policy: true})
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
		if !now.same(last) {
			last = g.still(ctx, now)
			g.reloadChanged(seen, &seen)
		}
		giveBack()
	}
}

// reloadChanged reloads what has another content than before. The content is taken before it is loaded: what changes
// meanwhile is noticed the next time.
func (g *Gate) reloadChanged(before fingerprints, seen *fingerprints) {
	now := g.cfg.fingerprints()
	*seen = now
	g.reload(parts{config: now.config != before.config, tls: now.tls != before.tls, policy: now.policy != before.policy})
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
		case !os.SameFile(a.info, b.info), a.info.Mode() != b.info.Mode(), a.info.Size() != b.info.Size(), !a.info.ModTime().Equal(b.info.ModTime()):
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

// fingerprint is a hash of files' names and contents. Files that can't be read count as absent.
type fingerprint [sha256.Size]byte

// fingerprints are those of what is reloaded by itself.
type fingerprints struct{ config, tls, policy fingerprint }

func (c *Config) fingerprints() fingerprints {
	return fingerprints{config: fingerprintOf([]string{c.file}), tls: fingerprintOf(c.tlsFiles()), policy: fingerprintOf(c.Policy)}
}

func fingerprintOf(paths []string) fingerprint {
	h := sha256.New()
	for _, path := range paths {
		entries, err := os.ReadDir(path)
		if err != nil {
			hashFile(h, path)
			continue
		}
		for _, entry := range entries {
			hashFile(h, filepath.Join(path, entry.Name()))
		}
	}
	return fingerprint(h.Sum(nil))
}

func hashFile(h hash.Hash, file string) {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() { // a pipe would wait for a writer
		return
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return
	}
	sum := sha256.Sum256(content)
	h.Write([]byte(file))
	h.Write(sum[:])
}
