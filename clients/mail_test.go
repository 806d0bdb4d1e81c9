//go:build clients

package clients

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// Notifications reach a mail server that asks for TLS and a password and puts off the first mail; another program reads
// them as they were meant, whatever is in a reason.
func TestMail(t *testing.T) {
	authority := pgtest.CA(t)
	t.Setenv("SSL_CERT_FILE", authority.CertFile) // which the gate trusts
	address, mails := startMailServer(t, authority)
	g := startGateUnder(t, build(t, ".", "../cmd/hourgate"), pgtest.Start(t, 17).Database(t), func(g *gate) {
		g.mayAsk(t)
		secret := g.write(t, "mail.secret", "s3cret mail\n")
		g.extra = fmt.Sprintf("state: {file: state.db}\nnotifications:\n  - {name: mail, type: smtp, server: %q, from: gate@example.com, "+
			"to: [dba@example.com, security@example.com], username: hourgate, secret_file: %q}", address, secret)
	})
	conn, err := pgx.Connect(t.Context(), strings.Replace(g.url(alice), "dbname=orders", "dbname=hourgate", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	const reason = "Grüße <script>; \".\" =?utf-8?Q?x?= https://evil.example.com/"
	exec1(t, conn, "REQUEST READ_ONLY ON orders REASON '"+reason+"'")

	var got struct {
		From, Data, User string
		To               []string
		TLS              bool
	}
	if err := json.Unmarshal([]byte(<-mails), &got); err != nil {
		t.Fatal(err)
	}
	if got.From != "gate@example.com" || !slices.Equal(got.To, []string{"dba@example.com", "security@example.com"}) || !got.TLS || got.User != "hourgate" {
		t.Errorf("got %+v", got)
	}
	message, err := mail.ReadMessage(strings.NewReader(got.Data))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, message.Body))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil || !strings.Contains(subject, "alice@example.com") {
		t.Errorf("subject %q, %v", subject, err)
	}
	for _, want := range []string{"APPROVE 1", "READ_ONLY", "Grüße", "<script>"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the mail lacks %q:\n%s", want, body)
		}
	}
}

// startMailServer runs a mail server until the test ends, and returns what it takes.
func startMailServer(t *testing.T, authority *pgtest.Authority) (address string, mails <-chan string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	_ = free.Close()
	certFile, keyFile := authority.Issue(t, "localhost")
	cmd := exec.Command("/usr/bin/python3", "python/smtp.py", port, certFile, keyFile)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := make(chan string, 10)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			lines <- in.Text()
		}
	}()
	if line := <-lines; line != "ready" {
		t.Fatalf("the mail server did not start: %q", line)
	}
	return "localhost:" + port, lines
}
