package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/smtp"
	"strings"
	"time"

	"github.com/hourgate/hourgate/access"
)

// Mail sends messages by SMTP, over TLS.
type Mail struct {
	Address  string // host:port; port 465 speaks TLS at once, others with STARTTLS
	From     string
	To       []string
	Username string // optional, with Password
	Password func(context.Context) (string, error)
	// Plaintext goes on without TLS where the server has none, and then without a password. It is for a relay on this
	// machine.
	Plaintext bool
	TLS       *tls.Config // optional
}

// implicitTLS is the port of RFC 8314.
const implicitTLS = "465"

// Send implements Channel.
func (s *Mail) Send(ctx context.Context, m access.Message) error {
	mail, err := s.compose(m)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.TLS != nil {
		cfg = s.TLS.Clone()
	}
	cfg.ServerName = host
	if port == implicitTLS {
		conn = tls.Client(conn, cfg)
	}
	client, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // what matters was acknowledged before
	return s.deliver(ctx, client, cfg, host, port, mail)
}

func (s *Mail) deliver(ctx context.Context, client *smtp.Client, cfg *tls.Config, host, port string, mail []byte) error {
	secured := port == implicitTLS
	if ok, _ := client.Extension("STARTTLS"); ok && !secured {
		if err := client.StartTLS(cfg); err != nil {
			return err
		}
		secured = true
	}
	switch {
	case !secured && !s.Plaintext:
		return errors.New("the server does not offer TLS")
	case secured && s.Username != "":
		password, err := s.Password(ctx)
		if err != nil {
			return err
		}
		if err := client.Auth(smtp.PlainAuth("", s.Username, password, host)); err != nil {
			return err
		}
	}
	if err := client.Mail(s.From); err != nil {
		return err
	}
	for _, to := range s.To {
		if err := client.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(mail); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return client.Quit()
}

// compose makes a mail of plain text. Its body is in base64, so that nothing in it is a line of SMTP's or a header.
func (s *Mail) compose(m access.Message) ([]byte, error) {
	e, err := parseEvent(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	header := func(name, value string) {
		fmt.Fprintf(&b, "%s: %s\r\n", name, strings.NewReplacer("\r", " ", "\n", " ").Replace(value))
	}
	header("From", s.From)
	b.WriteString("To: " + strings.Join(s.To, ",\r\n ") + "\r\n") // checked addresses; folded, since a line has 998 bytes at most
	header("Subject", mime.QEncoding.Encode("utf-8", "[hourgate] "+e.subject()))
	header("Date", m.Created.UTC().Format(time.RFC1123Z))
	header("Message-ID", "<"+m.ID+"@hourgate>")
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "base64")
	b.WriteString("\r\n")
	text := base64.StdEncoding.EncodeToString([]byte(strings.Join(append([]string{e.subject(), ""}, e.lines()...), "\r\n") + "\r\n"))
	for len(text) > 76 {
		b.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	b.WriteString(text + "\r\n")
	return b.Bytes(), nil
}
