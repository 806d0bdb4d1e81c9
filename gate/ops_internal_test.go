package gate

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// fullListener has no descriptor left once, and is closed then.
type fullListener struct {
	net.Listener
	asked bool
}

func (l *fullListener) Accept() (net.Conn, error) {
	if !l.asked {
		l.asked = true
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return nil, net.ErrClosed
}

func (l *fullListener) Close() error { return nil }

// What net/http has to say about the operator port is a line of the log like all others.
func TestErrorsOfTheOperatorPortAreLogged(t *testing.T) {
	var out bytes.Buffer
	ops := &opsServer{}
	_ = ops.server(prometheus.NewRegistry(), NewLogger(&out, slog.LevelInfo)).Serve(&fullListener{})
	var line struct{ Level, Msg string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if line.Level != "ERROR" || line.Msg == "" {
		t.Errorf("got %+v", line)
	}
}
