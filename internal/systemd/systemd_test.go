package systemd_test

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/internal/systemd"
)

// manager is a socket as systemd gives it to a service.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buffer := make([]byte, 100)
	n, err := conn.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

func TestNotify(t *testing.T) {
	if err := systemd.Notify(t.Context(), systemd.Ready); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	conn := manager(t)
	if err := systemd.Notify(t.Context(), systemd.Ready); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, conn); got != "READY=1" {
		t.Errorf("got %q", got)
	}
	_ = conn.Close()
	_ = os.Remove(os.Getenv("NOTIFY_SOCKET"))
	if err := systemd.Notify(t.Context(), systemd.Ready); err == nil {
		t.Error("a socket that is gone is no error")
	}
}

// systemd hears of the process as often as it wants to, and not when the process is unwell.
func TestWatch(t *testing.T) {
	if err := systemd.Watch(t.Context(), func() { t.Error("asked without a watchdog") }); err != nil {
		t.Error(err)
	}
	conn := manager(t)
	t.Setenv("WATCHDOG_USEC", "2000")
	t.Setenv("WATCHDOG_PID", "1")
	if err := systemd.Watch(t.Context(), func() { t.Error("asked though the watchdog is another process'") }); err != nil {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	asked, done := 0, make(chan error, 1)
	go func() { done <- systemd.Watch(ctx, func() { asked++ }) }()
	for range 3 {
		if got := receive(t, conn); got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil || asked < 3 {
		t.Errorf("got %v, asked %d times", err, asked)
	}
}

func TestListenerIsNotOurs(t *testing.T) {
	for _, environment := range [][2]string{{"", ""}, {"1", "1"}, {strconv.Itoa(os.Getpid()), "0"}} {
		t.Setenv("LISTEN_PID", environment[0])
		t.Setenv("LISTEN_FDS", environment[1])
		if listener, err := systemd.Listener(); listener != nil || err != nil {
			t.Errorf("%q: got %v, %v", environment, listener, err)
		}
	}
	t.Setenv("LISTEN_FDS", "2")
	if _, err := systemd.Listener(); err == nil || !strings.Contains(err.Error(), "2 sockets") {
		t.Errorf("two sockets: got %v", err)
	}
}

// TestListener passes a socket as systemd does: as descriptor 3 of a process that knows its own number.
func TestListener(t *testing.T) {
	if os.Getenv("HOURGATE_TEST_LISTENER") != "" {
		answer(t)
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A shell has the number of the process that it becomes.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestListener$'`, self)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "HOURGATE_TEST_LISTENER=1")
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// answer is the other process.
func answer(t *testing.T) {
	listener, err := systemd.Listener()
	if err != nil || listener == nil {
		t.Fatalf("got %v, %v", listener, err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
}
