package proxy_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/internal/eventually"
)

// Eight strangers at full speed don't fill the trail's disk.
func TestStrangersDoNotFillTheDisk(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "trail.jsonl")
	trail, err := audit.Open(file, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	g := startGate(t, database(t, 18), gateOptions{trail: trail})
	packet := startup(v30, "user", strings.Repeat("\x01", 4000), "database", strings.Repeat("d", 4000), "application_name", "a")
	const each = 300
	var strangers sync.WaitGroup
	for range 8 {
		strangers.Go(func() {
			for range each {
				conn, err := net.Dial("tcp", g.addr)
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = conn.Write(packet)
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			}
		})
	}
	strangers.Wait()
	eventually.True(t, "all are counted", func() bool { return g.metric("hourgate_connections_refused_total") == 8*each })
	g.server.Close()
	if err := trail.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	recorded := int64(0)
	for r, err := range audit.All(bytes.NewReader(content)) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Event == audit.SessionRefused {
			recorded += max(r.Count, 1)
		}
	}
	if size := len(content); size > 20_000 || recorded != 8*each {
		t.Errorf("%d refusals recorded in %d bytes, want %d in a few thousand", recorded, len(content), 8*each)
	}
}
