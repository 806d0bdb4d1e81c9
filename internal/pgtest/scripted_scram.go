package pgtest

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/jackc/pgerrcode"
)

func (c *scriptedConn) password(kind string) {
	if body, err := c.answer(); err == nil {
		c.note(kind)
		c.mu.Lock()
		c.passwords = append(c.passwords, string(bytes.TrimSuffix(body, []byte{0})))
		c.mu.Unlock()
		c.letIn()
	}
}

// scram is SCRAM-SHA-256 without channel binding, RFC 7677.
func (c *scriptedConn) scram(login Login) {
	c.send('R', append([]byte{0, 0, 0, 10}, "SCRAM-SHA-256\x00\x00"...)...)
	initial, err := c.answer()
	if err != nil {
		return
	}
	if login == LoginTrustSASL {
		c.letIn()
		return
	}
	_, clientFirst, ok := bytes.Cut(initial, []byte(",,")) // after the mechanism, the length and the gs2 header
	_, nonce, ok2 := bytes.Cut(clientFirst, []byte("r="))
	if !ok || !ok2 {
		return
	}
	count := 4096
	if login == LoginIterations {
		count = 2_000_000_000
	}
	salt := []byte("sixteen bytes...")
	serverFirst := fmt.Sprintf("r=%sSERVER,s=%s,i=%d", nonce, base64.StdEncoding.EncodeToString(salt), count)
	c.send('R', append([]byte{0, 0, 0, 11}, serverFirst...)...)
	final, err := c.answer()
	if err != nil {
		return
	}
	c.note("proof")
	withoutProof, _, _ := bytes.Cut(final, []byte(",p="))
	if login == LoginWrongPassword {
		c.fail(pgerrcode.InvalidPassword)
		return
	}
	password := c.script.Password
	if login == LoginForged {
		password = "a guess"
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, 4096, 32)
	if err != nil {
		return
	}
	signature := mac(mac(salted, []byte("Server Key")), fmt.Appendf(nil, "%s,%s,%s", clientFirst, serverFirst, withoutProof))
	c.send('R', append([]byte{0, 0, 0, 12}, "v="+base64.StdEncoding.EncodeToString(signature)...)...)
	if login == LoginNoDatabase {
		c.send('R', 0, 0, 0, 0)
		c.fail(pgerrcode.InvalidCatalogName)
		return
	}
	c.letIn()
}

func mac(key, message []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return h.Sum(nil)
}
