package storetest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/hourgate/hourgate/access"
)

// Killed kills a process that writes, again and again: all that it said was kept is there, whole, and nothing half. The process is the
// test's own program with a variable in its environment, upon which its TestMain calls WriteForever. open opens what it writes.
func Killed(t *testing.T, variable string, open func(*testing.T) access.Store) {
	t.Helper()
	said := int64(0)
	for range 5 {
		said = max(said, writeAndKill(t, variable))
		s := open(t)
		snapshot := must(s.Load(t.Context()))(t)
		if snapshot.LastID < said || snapshot.LastID > said+5 || int64(len(snapshot.Open)) != snapshot.LastID || snapshot.Revision != snapshot.LastID+1 {
			t.Errorf("said %d; last ID %d, revision %d, %d requests", said, snapshot.LastID, snapshot.Revision, len(snapshot.Open))
		}
		if messages := must(s.Claim(t.Context(), "c", 1_000_000, 0))(t); int64(len(messages)) != snapshot.LastID {
			t.Errorf("%d messages for %d requests", len(messages), snapshot.LastID)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// writeAndKill runs a writer until it has said some things, kills it, and returns the last number that it said.
func writeAndKill(t *testing.T, variable string) (said int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // it is this test itself
	cmd.Env = append(os.Environ(), variable)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := 0
	for in := bufio.NewScanner(out); in.Scan(); lines++ { // to the last line that it could write
		if _, err := fmt.Sscan(in.Text(), &said); err != nil {
			t.Errorf("the writer says %q", in.Text())
		}
		if lines == 30 {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	if lines < 30 {
		t.Fatalf("the writer ended by itself after %d lines", lines)
	}
	return said
}

// WriteForever files requests, each with a message, and says the number of each.
func WriteForever(s access.Store, err error) {
	for err == nil {
		r := Sample("bob")
		err = s.Create(context.Background(), r, 1_000_000, func(r *access.Request) ([]access.Message, error) {
			id := fmt.Sprintf("m-%d", r.ID)
			return []access.Message{{ID: id, Channel: "c", Subject: id, Created: time.Now(), Body: []byte("{}")}}, nil
		})
		if err == nil {
			_, err = fmt.Println(r.ID)
		}
	}
	panic(err)
}
