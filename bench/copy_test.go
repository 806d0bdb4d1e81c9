//go:build linux

package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// Clients that come while others leave are served: the loop finds the end of one, the next one, and the end of what the first
// had at the server in one look, since it was held up. It once closed the first's descriptors before it had seen all of them,
// gave them to the next, and waited for bytes that nobody was to send, until the server gave up.
//
// Not parallel: descriptors are the lowest that are free.
func TestCopyServesWhoComesWhileOthersLeave(t *testing.T) {
	const patience = 10 * time.Second
	server, clients := listen(t), listen(t)
	file, err := clients.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	loop := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCopyProcess$")
	loop.Env = append(os.Environ(), copyTo+"="+strconv.Itoa(server.Addr().(*net.TCPAddr).Port))
	loop.ExtraFiles = []*os.File{file}
	if err := loop.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = loop.Process.Kill(); _ = loop.Wait() })

	connect := func() net.Conn {
		conn, err := net.Dial("tcp", clients.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	accept := func() net.Conn {
		_ = server.SetDeadline(time.Now().Add(patience))
		conn, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	says := func(from, to net.Conn) {
		t.Helper()
		if _, err := from.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_ = to.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(to, make([]byte, 5)); err != nil {
			t.Fatalf("what was said did not arrive: %v", err)
		}
	}

	slow := connect()
	atSlow := accept()
	first := connect()
	atFirst := accept()
	says(first, atFirst)

	// The loop waits for room at the slow one's server.
	_ = slow.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	sent, err := io.CopyN(slow, zeros{}, 1<<30)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the loop takes %d bytes that nobody reads, %v", sent, err)
	}
	_ = first.Close()
	second := connect()
	_ = atFirst.Close()
	_ = atSlow.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.CopyN(io.Discard, atSlow, sent); err != nil {
		t.Fatal(err)
	}
	says(second, accept())
}

const copyTo = "HOURGATE_BENCH_TEST_COPY_TO" // a port: be the copy loop

// TestCopyProcess is the loop of the test above. It waits in system calls that Go is not told of, so it needs a process.
func TestCopyProcess(*testing.T) {
	if port, err := strconv.Atoi(os.Getenv(copyTo)); err == nil {
		const listener = 3 // the first of exec.Cmd's ExtraFiles
		_ = copyBetween(listener, port)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}
