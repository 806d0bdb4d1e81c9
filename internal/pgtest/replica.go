package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Replica starts a hot standby that streams from s, for this test alone. It takes connections from whoever s takes them
// from. It is stopped and removed when the test ends, before s is. ([pg_basebackup is not among the programs of all majors,
// so this does what it does. PostgreSQL docs, 25.3.3 Making a Base Backup Using the Low Level API])
func (s *Server) Replica(t testing.TB) *Server {
	t.Helper()
	run := runOf(t)
	replica, err := run.newReplica(t.Context(), s)
	if err != nil {
		t.Fatalf("making a replica of PostgreSQL %d: %v", s.Major, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the replica of PostgreSQL %d:\n%s", s.Major, replica.Log())
		}
		run.discard(replica)
	})
	return replica
}

func (r *testRun) newReplica(ctx context.Context, of *Server) (*Server, error) {
	dir, err := os.MkdirTemp(r.dir, strconv.Itoa(of.Major)+"-")
	if err != nil {
		return nil, err
	}
	replica := &Server{Major: of.Major, Host: of.Host, CAFile: of.CAFile, SocketDir: dir, dir: dir, account: of.account}
	r.add(replica)
	err = replica.account.own(dir)
	if err == nil {
		err = replica.copy(ctx, of)
	}
	if err == nil {
		err = replica.start()
	}
	if err == nil {
		err = replica.awaitStreaming(ctx)
	}
	if err != nil {
		err = fmt.Errorf("%w; its log:\n%s", err, replica.Log())
		r.discard(replica)
		return nil, err
	}
	return replica, nil
}

// copy makes the data directory from that of a running server.
func (s *Server) copy(ctx context.Context, of *Server) error {
	conn, err := of.connect(ctx, superuser)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	begin, end := "SELECT pg_backup_start('replica', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if of.Major < 15 {
		begin, end = "SELECT pg_start_backup('replica', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	if _, err := conn.Exec(ctx, begin); err != nil {
		return err
	}
	// A file that the server removes meanwhile is none that is needed, and cp complains about it.
	output, copyErr := exec.CommandContext(ctx, "cp", "-a", of.dataDir(), s.dataDir()).CombinedOutput()
	var label string
	if err := conn.QueryRow(ctx, end).Scan(&label); err != nil {
		return errors.Join(err, copyErr, errors.New(string(output)))
	}
	if err := os.Remove(filepath.Join(s.dataDir(), "postmaster.pid")); err != nil {
		return errors.Join(err, copyErr, errors.New(string(output)))
	}
	for name, content := range map[string]string{"backup_label": label, "standby.signal": ""} {
		file := filepath.Join(s.dataDir(), name)
		if err := errors.Join(os.WriteFile(file, []byte(content), 0o600), s.account.own(file)); err != nil {
			return err
		}
	}
	return appendFile(filepath.Join(s.dataDir(), "postgresql.conf"), configText(map[string]string{
		"unix_socket_directories":      s.SocketDir,
		"primary_conninfo":             fmt.Sprintf("host=%s port=%d user=%s sslmode=disable", of.SocketDir, of.Port, superuser),
		"wal_retrieve_retry_interval":  "100ms",
		"wal_receiver_status_interval": "1s",
	}))
}

// awaitStreaming waits until the replica is connected, so that what is done on the other server from now on reaches it.
func (s *Server) awaitStreaming(ctx context.Context) error {
	conn, err := s.connect(ctx, superuser)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(pollInterval) {
		var streaming bool
		err := conn.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_stat_wal_receiver WHERE status = 'streaming'").Scan(&streaming)
		if err != nil || streaming {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("it does not stream")
		}
	}
}

// PauseReplay makes a replica stand still, as one does that lags, until the returned function is called or the test ends.
// What it has received it keeps.
func (s *Server) PauseReplay(t testing.TB) (resume func()) {
	t.Helper()
	s.do(t, "SELECT pg_wal_replay_pause()")
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(pollInterval) {
		var paused bool
		query := "SELECT pg_get_wal_replay_pause_state() = 'paused'"
		if s.Major < 14 {
			query = "SELECT pg_is_wal_replay_paused()"
		}
		conn := s.Superuser(t, superuser)
		err := conn.QueryRow(t.Context(), query).Scan(&paused)
		_ = conn.Close(t.Context())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("replay is not paused: %v", err)
		}
		if paused {
			break
		}
	}
	resume = sync.OnceFunc(func() { s.do(t, "SELECT pg_wal_replay_resume()") })
	t.Cleanup(resume)
	return resume
}

func (s *Server) do(t testing.TB, statement string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := s.connect(ctx, superuser)
	if err == nil {
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, statement)
	}
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
