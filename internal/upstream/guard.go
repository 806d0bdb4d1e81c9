package upstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Limits of what a server may send before it has let us in; libpq's, see PQconnectPoll in PostgreSQL's fe-connect.c.
const (
	maxAuthMessage  = 2000  // AuthenticationRequest
	maxErrorMessage = 30000 // ErrorResponse

	// maxIterations bounds what SCRAM costs us: about a third of a second. PostgreSQL's default is 4096, and the most
	// cautious advice 600,000. pgconn's own limit of ten million would let a hostile server keep our processors busy.
	maxIterations = 1_000_000
)

// The codes of AuthenticationRequest that matter here. See
// https://www.postgresql.org/docs/current/protocol-message-formats.html.
const (
	authOK           = 0
	authCleartext    = 3
	authMD5          = 5
	authSASLContinue = 11
)

// guard reads what the server sends during the log-in, one whole message at a time, and refuses what no honest server
// sends. From AuthenticationOk on it lets everything pass.
type guard struct {
	server        io.Reader
	dialed        bool // there was an attempt
	secured       bool // it is encrypted
	buffered      bytes.Buffer
	authenticated bool
	refused       error // why nothing passes any more
}

func (g *guard) Read(p []byte) (int, error) {
	if g.refused != nil {
		return 0, g.refused
	}
	if g.buffered.Len() == 0 {
		if g.authenticated {
			return g.server.Read(p)
		}
		if g.refused = g.next(); g.refused != nil {
			return 0, g.refused
		}
	}
	return g.buffered.Read(p)
}

// next reads and judges one message.
func (g *guard) next() error {
	var header [5]byte
	if _, err := io.ReadFull(g.server, header[:]); err != nil {
		return err
	}
	kind, length := header[0], binary.BigEndian.Uint32(header[1:])
	var limit uint32
	switch kind {
	case 'R', 'v':
		limit = maxAuthMessage
	case 'E':
		limit = maxErrorMessage
	default:
		return fmt.Errorf("the server sent message type %q before it let us in", kind)
	}
	if length < 4 || length > limit {
		return fmt.Errorf("the server sent a message of type %q and %d bytes before it let us in", kind, length)
	}
	g.buffered.Reset()
	g.buffered.Write(header[:])
	if _, err := io.CopyN(&g.buffered, g.server, int64(length)-4); err != nil {
		g.buffered.Reset()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // in the middle of a message
		}
		return err
	}
	if body := g.buffered.Bytes()[5:]; kind == 'R' && len(body) >= 4 {
		switch binary.BigEndian.Uint32(body) {
		case authOK:
			g.authenticated = true
		case authCleartext, authMD5:
			if !g.secured {
				return errors.New("the server asks for a password in cleartext or MD5 over a plaintext connection")
			}
		case authSASLContinue:
			return iterations(body[4:])
		}
	}
	return nil
}

// iterations judges a SCRAM server-first-message: r=nonce,s=salt,i=count. What can't be read is left to pgconn.
func iterations(serverFirst []byte) error {
	_, count, ok := bytes.Cut(serverFirst, []byte(",i="))
	if !ok {
		return nil
	}
	count, _, _ = bytes.Cut(count, []byte(","))
	if n, err := strconv.Atoi(string(count)); err == nil && n > maxIterations {
		return fmt.Errorf("the server asks for %d iterations of SCRAM, at most %d are done", n, maxIterations)
	}
	return nil
}
