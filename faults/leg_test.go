//go:build faults

package faults

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// leg is a TCP relay on one side of the gate that can be made to fail.
type leg struct {
	listener net.Listener

	mu      sync.Mutex
	target  string
	pairs   map[[2]net.Conn]struct{}
	refuse  bool           // new connections are closed at once
	answers func(net.Conn) // who has new connections, instead of the target; nil: nobody
	dark    chan struct{}  // closed when bytes flow again; nil while they do
	delayed time.Duration  // of each piece
	split   bool           // into single bytes
}

func newLeg(t *testing.T, target string) *leg {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &leg{listener: listener, target: target, pairs: make(map[[2]net.Conn]struct{})}
	go l.accept()
	t.Cleanup(func() { _ = listener.Close(); l.lit(); l.cut(false) })
	return l
}

func (l *leg) port() int { return l.listener.Addr().(*net.TCPAddr).Port }

func (l *leg) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		go l.serve(near)
	}
}

func (l *leg) serve(near net.Conn) {
	l.mu.Lock()
	refuse, answers, target := l.refuse, l.answers, l.target
	l.mu.Unlock()
	if answers != nil {
		defer near.Close()
		answers(near)
		return
	}
	if refuse {
		_ = near.Close()
		return
	}
	far, err := net.Dial("tcp", target)
	if err != nil {
		_ = near.Close()
		return
	}
	pair := [2]net.Conn{near, far}
	l.mu.Lock()
	l.pairs[pair] = struct{}{}
	l.mu.Unlock()
	var copying sync.WaitGroup
	copying.Go(func() { l.copy(far, near) })
	copying.Go(func() { l.copy(near, far) })
	copying.Wait()
	l.mu.Lock()
	delete(l.pairs, pair)
	l.mu.Unlock()
}

// babble answers what comes with a megabyte of noise, and keeps the connection.
func babble(near net.Conn) {
	if _, err := near.Read(make([]byte, 1)); err != nil {
		return
	}
	noise := rand.NewChaCha8([32]byte{})
	_, _ = io.CopyN(near, noise, 1<<20)
	_, _ = io.Copy(io.Discard, near)
}

// silence takes what comes and answers nothing.
func silence(near net.Conn) { _, _ = io.Copy(io.Discard, near) }

// boast announces an error message of two gigabytes, and sends it byte by byte.
func boast(near net.Conn) {
	_, err := near.Write([]byte{'E', 0x7f, 0xff, 0xff, 0xff})
	for ; err == nil; _, err = near.Write([]byte{'S'}) {
		<-time.After(10 * time.Millisecond)
	}
}

// hangUp agrees to TLS and closes.
func hangUp(near net.Conn) {
	_, _ = near.Read(make([]byte, 8))
	_, _ = near.Write([]byte{'S'})
}

// answer has new connections answered by somebody else than the target, nil by the target again.
func (l *leg) answer(answers func(net.Conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = answers
}

func (l *leg) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if writeErr := l.write(to, b[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

func (l *leg) write(to io.Writer, b []byte) error {
	l.mu.Lock()
	dark, delayed, split := l.dark, l.delayed, l.split
	l.mu.Unlock()
	if dark != nil {
		<-dark
	}
	time.Sleep(delayed)
	if !split {
		_, err := to.Write(b)
		return err
	}
	for i := range b {
		if _, err := to.Write(b[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// cut closes all connections, with a reset or in order.
func (l *leg) cut(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for pair := range l.pairs {
		for _, conn := range pair {
			if tcp, ok := conn.(*net.TCPConn); ok && reset {
				_ = tcp.SetLinger(0)
			}
			_ = conn.Close()
		}
	}
}

// darken swallows everything that is sent from now on, and connections stay as they are.
func (l *leg) darken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dark == nil {
		l.dark = make(chan struct{})
	}
}

// lit ends darkness.
func (l *leg) lit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dark != nil {
		close(l.dark)
		l.dark = nil
	}
}

// lead sends new connections elsewhere.
func (l *leg) lead(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = target
}

func (l *leg) set(refuse, split bool, delayed time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse, l.split, l.delayed = refuse, split, delayed
}
