package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/proxy"
)

// strangers are connections that begin a TLS handshake and go no further.
const strangers = 10_000

// beStrangers is a process of its own, because two ends of so many connections are more files than one may open. It
// runs until its standard input ends.
func beStrangers(addr string) {
	conns := make([]net.Conn, strangers)
	for i := range conns {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_, err = conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}) // SSLRequest
		}
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // 'S': the gate waits for the ClientHello
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		conns[i] = conn
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(conns)
}

// BenchmarkHalfOpen reports the gate's memory for each of 10,000 strangers, and how they change the latency of a session
// that is in use.
func BenchmarkHalfOpen(b *testing.B) {
	g := startGate(b, pgtest.Start(b, 15).Database(b), gateOptions{change: func(c *proxy.Config) {
		c.MaxUnauthenticated, c.MaxUnauthenticatedPerAddress = 2*strangers, 2*strangers
		c.FirstByteTimeout, c.StartupTimeout = time.Hour, time.Hour
	}})
	session := g.pgx()
	latency := func() (p50, p99 float64) {
		var times []float64
		for range 5000 {
			started := time.Now()
			if err := session.Ping(b.Context()); err != nil {
				b.Fatal(err)
			}
			times = append(times, time.Since(started).Seconds()*1e6)
		}
		slices.Sort(times)
		return times[len(times)/2], times[len(times)*99/100]
	}
	for b.Loop() {
		latency() // warm
		before50, before99 := latency()
		before := memoryInUse()
		cmd := exec.CommandContext(b.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "HOURGATE_STRANGERS="+g.addr)
		stdin, _ := cmd.StdinPipe()
		stdout, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if said, _ := bufio.NewReader(stdout).ReadString('\n'); said != "ready\n" {
			b.Fatalf("the strangers say %q", said)
		}
		b.ReportMetric((memoryInUse()-before)/strangers/1024, "KiB/stranger")
		during50, during99 := latency()
		b.ReportMetric(before50, "µs-p50-before")
		b.ReportMetric(during50, "µs-p50-during")
		b.ReportMetric(before99, "µs-p99-before")
		b.ReportMetric(during99, "µs-p99-during")
		_ = stdin.Close()
		_ = cmd.Wait()
	}
}

// memoryInUse is this process's, in bytes, after a collection.
func memoryInUse() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse + m.StackInuse)
}
