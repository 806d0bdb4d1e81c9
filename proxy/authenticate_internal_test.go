package proxy

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/xdg-go/scram"

	"github.com/hourgate/hourgate/internal/verifier"
	"github.com/hourgate/hourgate/policy"
)

func saslMessage(t testing.TB, mechanism, data string) []byte {
	t.Helper()
	b, err := (&pgproto3.SASLInitialResponse{AuthMechanism: mechanism, Data: []byte(data)}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func saslResponse(data string) []byte { return raw('p', uint32(len(data)+4), []byte(data)...) }

// TestMalformedSCRAM: what PostgreSQL refuses (read_client_first_message and is_scram_printable, auth-scram.c) and our
// library would take is refused too, with the right password as well.
func TestMalformedSCRAM(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]string{
		"NUL in the name":         "n,,n=a\x00,r=abc",
		"NUL in the nonce":        "n,,n=,r=a\x00bc",
		"space in the nonce":      "n,,n=,r=a bc",
		"other alphabet in nonce": "n,,n=,r=\u00e4bc",
		"NUL in an extension":     "n,,n=,r=abc,x=\x00",
	} {
		for _, known := range []bool{true, false} {
			w := &saslWire{wire: wire{in: saslMessage(t, scramSHA256, first)}, answer: saslResponse("c=biws,r=NONCE,p=PROOF")}
			if err := newSASLServer(t).session(w, known, nil).authenticate(); err == nil || endOf(t, err) != pgerrcode.InvalidPassword {
				t.Errorf("%s: got %v, want the refusal of a wrong password", name, err)
			}
		}
	}
	w := &saslWire{wire: wire{in: saslMessage(t, scramSHA256, "n,,n=,r=abc,x=y")}, answer: saslResponse("c=biws,r=NONCE,x=y,p=PROOF")}
	if err := newSASLServer(t).session(w, true, nil).authenticate(); err != nil {
		t.Errorf("an honest client with extensions: got %v", err)
	}
}

// saslServer is what authentication needs of a server, with one user whose client key is known, so that a proof takes two
// HMACs and no PBKDF2.
type saslServer struct {
	*Server
	clientKey, storedKey, serverKey []byte
	salt                            []byte
}

const (
	saslUser    = "alice"
	saslUnknown = "mallo"
)

func newSASLServer(t testing.TB) *saslServer {
	t.Helper()
	s := &saslServer{clientKey: bytes.Repeat([]byte{7}, 32), serverKey: bytes.Repeat([]byte{8}, 32), salt: bytes.Repeat([]byte{9}, 16)}
	stored := sha256.Sum256(s.clientKey)
	s.storedKey = stored[:]
	v := verifier.Verifier{Iterations: verifier.DefaultIterations, Salt: s.salt, StoredKey: s.storedKey, ServerKey: s.serverKey}
	set, err := policy.Parse([]policy.Source{{Data: fmt.Appendf(nil, "users: [{name: %s, scram: %q}]", saslUser, v.Encode())}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = &Server{cfg: Config{Policy: policy.NewLive(set), Integrations: noIntegrations{}}, log: slog.New(slog.DiscardHandler)}
	s.SetLimits(Limits{})
	s.guesses.Free, s.strangers.Free = math.MaxInt, math.MaxInt // waiting is not the question
	return s
}

// session is one that has sent its StartupMessage. w knows how to go on when the challenge comes.
func (s *saslServer) session(w *saslWire, known bool, leaf *x509.Certificate) *session {
	w.server = s
	user := saslUnknown
	if known {
		user = saslUser
	}
	return &session{
		server: s.Server, ctx: context.Background(), log: s.log,
		clientSide: clientSide{client: w, leaf: leaf, startup: startup{user: user}, authenticated: func() {}},
	}
}

// saslWire is a client that answers the challenge: in its answer, NONCE becomes the nonce and PROOF the proof of the right
// password. The length word is corrected if it was right before.
type saslWire struct {
	wire
	server *saslServer
	answer []byte

	mechanism string
	first     string // client-first-message
	firstEnd  int    // of the message that it is in
	challenge string
}

func (w *saslWire) Write(b []byte) (int, error) {
	if len(b) > 9 && binary.BigEndian.Uint32(b[5:]) == 11 {
		mechanism, rest, _ := strings.Cut(string(w.in[5:w.at]), "\x00")
		w.mechanism, w.first, w.challenge, w.firstEnd = mechanism, rest[4:], string(b[9:]), w.at
		w.in = append(w.in[:len(w.in):len(w.in)], w.respond()...)
	}
	return w.wire.Write(b)
}

func (w *saslWire) respond() []byte {
	whole := len(w.answer) >= 5 && int64(binary.BigEndian.Uint32(w.answer[1:])) == int64(len(w.answer)-1)
	nonce, _, _ := strings.Cut(strings.TrimPrefix(w.challenge, "r="), ",s=")
	answer := bytes.ReplaceAll(w.answer, []byte("NONCE"), []byte(nonce))
	if i := bytes.LastIndex(answer, []byte(",p=")); whole && i >= 5 {
		proof := w.server.proof(w.first, w.challenge, string(answer[5:i]))
		answer = bytes.ReplaceAll(answer, []byte("PROOF"), []byte(base64.StdEncoding.EncodeToString(proof)))
	}
	if whole {
		binary.BigEndian.PutUint32(answer[1:], uint32(len(answer)-1))
	}
	return answer
}

// final is the client-final-message that was read, or "".
func (w *saslWire) final() string {
	if w.challenge == "" || w.at < w.firstEnd+5 {
		return ""
	}
	return string(w.in[w.firstEnd+5 : w.at])
}

// proof is the ClientProof of RFC 5802, section 3.
func (s *saslServer) proof(first, challenge, withoutProof string) []byte {
	proof := hmacSHA256(s.storedKey, authMessage(first, challenge, withoutProof))
	subtle.XORBytes(proof, proof, s.clientKey)
	return proof
}

func authMessage(first, challenge, withoutProof string) string {
	parts := strings.SplitN(first, ",", 3)
	return parts[len(parts)-1] + "," + challenge + "," + withoutProof
}

func hmacSHA256(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}

// proven says, by RFC 5802 and 7677 and PostgreSQL's own checks, whether a client has shown that it knows the password
// and sees our certificate, if it says that it looks.
func (w *saslWire) proven(leaf *x509.Certificate) bool {
	plus := w.mechanism == scramSHA256Plus
	if !plus && w.mechanism != scramSHA256 {
		return false
	}
	first := strings.Split(w.first, ",")
	if len(first) < 4 || first[1] != "" || !strings.HasPrefix(first[2], "n=") || !strings.HasPrefix(first[3], "r=") ||
		strings.ContainsFunc(first[3], func(r rune) bool { return r < '!' || r > '~' }) || strings.Contains(w.first, "\x00") {
		return false
	}
	bound := []byte(first[0] + ",,")
	switch {
	case plus && leaf != nil && first[0] == "p=tls-server-end-point":
		hash := sha256.Sum256(leaf.Raw)
		bound = append(bound, hash[:]...)
	case !plus && (first[0] == "n" || first[0] == "y" && leaf == nil):
	default:
		return false
	}
	nonce, _, _ := strings.Cut(w.challenge, ",s=") // r=…
	text := w.final()
	final := strings.Split(text, ",")
	if len(final) < 3 || final[1] != nonce || strings.Contains(text, "\x00") {
		return false
	}
	last := final[len(final)-1]
	withoutProof := strings.TrimSuffix(text, ","+last)
	attribute := func(text, name string) []byte {
		text, ok := strings.CutPrefix(text, name)
		b, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil {
			return nil
		}
		return b
	}
	return bytes.Equal(attribute(final[0], "c="), bound) &&
		bytes.Equal(attribute(last, "p="), w.server.proof(w.first, w.challenge, withoutProof))
}

// FuzzSASL is the whole exchange: two messages of a client, of which the second may hold the right nonce and proof, for a
// user that exists or does not, with a certificate to bind to or without. Who gets in is held against the RFC's own
// arithmetic, and what we send against what was asked.
func FuzzSASL(f *testing.F) {
	plain, plus := "n,,n=,r=abc", "p=tls-server-end-point,,n=,r=abc"
	leaf := &x509.Certificate{Raw: []byte("a certificate"), SignatureAlgorithm: x509.ECDSAWithSHA256}
	hash := sha256.Sum256(leaf.Raw)
	bound := base64.StdEncoding.EncodeToString(append([]byte("p=tls-server-end-point,,"), hash[:]...))
	right, rightPlus := saslResponse("c=biws,r=NONCE,p=PROOF"), saslResponse("c="+bound+",r=NONCE,p=PROOF")
	for _, known := range []bool{true, false} {
		f.Add(saslMessage(f, scramSHA256, plain), right, []byte(nil), false, known)
		f.Add(saslMessage(f, scramSHA256, plain), right, []byte{1}, true, known)
		f.Add(saslMessage(f, scramSHA256Plus, plus), rightPlus, []byte(nil), true, known)
	}
	f.Add(saslMessage(f, scramSHA256, "y,,n=,r=abc"), saslResponse("c=eSws,r=NONCE,p=PROOF"), []byte(nil), true, true)
	f.Add(saslMessage(f, scramSHA256, "y,,n=,r=abc"), saslResponse("c=eSws,r=NONCE,p=PROOF"), []byte(nil), false, true)
	f.Add(saslMessage(f, scramSHA256, "n,a=root,n=,r=abc"), saslResponse("c=bixhPXJvb3Qs,r=NONCE,p=PROOF"), []byte(nil), false, true)
	f.Add(saslMessage(f, scramSHA256, plain), saslResponse("c=biws,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), []byte(nil), false, true)
	f.Add(saslMessage(f, scramSHA256, "n,,n=a=2Cb,r=abc,x=y"), saslResponse("c=biws,r=NONCE,x=y,p=PROOF"), []byte(nil), false, true)
	f.Add(saslMessage(f, scramSHA256Plus, plus), saslResponse("c=biws,r=NONCE,p=PROOF"), []byte(nil), true, true)
	f.Add(saslMessage(f, scramSHA256Plus, plus), rightPlus, []byte(nil), false, true)
	f.Add(saslMessage(f, scramSHA256, plus), rightPlus, []byte(nil), true, true)
	f.Add(saslMessage(f, scramSHA256, "n,,n=,r="), right, []byte(nil), false, true) // PostgreSQL lets an empty nonce pass
	f.Add(raw('X', 4), []byte(nil), []byte(nil), false, true)
	f.Add(raw('p', 0xffffffff, 1), []byte(nil), []byte(nil), false, true)
	f.Add(saslMessage(f, scramSHA256, plain), raw('p', 3), []byte(nil), false, true)
	f.Add(join(saslMessage(f, scramSHA256, plain), right), []byte(nil), []byte(nil), false, true)
	f.Add(saslMessage(f, "SCRAM-SHA-1", plain), right, []byte(nil), false, true)
	f.Add(raw('p', 22, []byte(scramSHA256+"\x00\xff\xff\xff\xff")...), right, []byte(nil), false, true) // no first message yet

	server := newSASLServer(f)
	f.Fuzz(func(t *testing.T, first, final, cuts []byte, binding, known bool) {
		if len(first)+len(final) > 4*maxSASLMessage {
			return
		}
		offered := leaf
		if !binding {
			offered = nil
		}
		w := &saslWire{wire: wire{in: first, cuts: cuts}, answer: final}
		s := server.session(w, known, offered)
		err := s.authenticate()
		if w.asked > maxSASLMessage || w.closed {
			t.Fatalf("had room for %d bytes; closed: %v", w.asked, w.closed)
		}

		proven := known && w.proven(offered)
		switch {
		case err == nil && (!proven || s.user != saslUser):
			t.Fatalf("%q and %q let %q in as %q", w.first, w.final(), s.startup.user, s.user)
		case err != nil && (proven || s.user != ""):
			t.Fatalf("%q and %q were refused, user %q: %v", w.first, w.final(), s.user, err)
		case err != nil:
			code := endOf(t, err)
			if chosen, ok := w.choice(binding); ok && (code == pgerrcode.InvalidPassword) != chosen && w.challenge == "" {
				t.Fatalf("%q was refused with %v; its mechanism is right: %v", w.in, err, chosen)
			}
		}
		w.checkSent(t, binding, known, err == nil)
	})
}

// choice says whether a whole SASLInitialResponse was read, and whether its mechanism is one of those offered and fits.
func (w *saslWire) choice(binding bool) (right, ok bool) {
	if w.at < 5 || w.in[0] != 'p' || w.at != 1+int(binary.BigEndian.Uint32(w.in[1:])) {
		return false, false
	}
	mechanism, rest, found := strings.Cut(string(w.in[5:w.at]), "\x00")
	if !found || len(rest) < 4 || int(binary.BigEndian.Uint32([]byte(rest))) != len(rest)-4 {
		return false, true
	}
	plus := binding && mechanism == scramSHA256Plus
	return (plus || mechanism == scramSHA256) && plus == strings.HasPrefix(rest[4:], "p="), true
}

// checkSent holds our messages against those of a server that says no more than it must.
func (w *saslWire) checkSent(t *testing.T, binding, known, ok bool) {
	t.Helper()
	mechanisms := scramSHA256 + "\x00\x00"
	if binding {
		mechanisms = scramSHA256Plus + "\x00" + mechanisms
	}
	want := authentication(10, mechanisms)
	if w.challenge != "" {
		salt := w.server.salt
		if !known {
			salt = verifier.Mock(w.server.mockSecret[:], saslUnknown).Salt
		}
		nonce := strings.Split(w.first, ",")[3]
		rest := fmt.Sprintf(",s=%s,i=%d", base64.StdEncoding.EncodeToString(salt), verifier.DefaultIterations)
		if !strings.HasPrefix(w.challenge, nonce) || !strings.HasSuffix(w.challenge, rest) || len(w.challenge) < len(nonce)+18+len(rest) {
			t.Fatalf("challenge %q to %q, want a longer nonce and %q", w.challenge, w.first, rest)
		}
		want = append(want, authentication(11, w.challenge)...)
	}
	if ok {
		withoutProof := w.final()[:strings.LastIndex(w.final(), ",")]
		signature := hmacSHA256(w.server.serverKey, authMessage(w.first, w.challenge, withoutProof))
		want = append(want, authentication(12, "v="+base64.StdEncoding.EncodeToString(signature))...)
		want = append(want, authentication(0, "")...)
	}
	if !bytes.Equal(w.sent, want) {
		t.Fatalf("sent %q, want %q", w.sent, want)
	}
}

// authentication is an AuthenticationRequest.
func authentication(code uint32, data string) []byte {
	return raw('R', uint32(8+len(data)), append(binary.BigEndian.AppendUint32(nil, code), data...)...)
}

// BenchmarkSCRAM is our side of a log-in with the right password: two messages in, two out.
func BenchmarkSCRAM(b *testing.B) {
	g := newGuesser(b)
	v, err := verifier.New("correct horse battery staple", verifier.DefaultIterations)
	if err != nil {
		b.Fatal(err)
	}
	set, err := policy.Parse([]policy.Source{{
		File: "policy.yaml", Data: fmt.Appendf(nil, "users: [{name: alice, scram: %q}]", v.Encode()),
	}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	g.server.cfg.Policy.Put(set)
	client, err := scram.SHA256.NewClient("alice", "correct horse battery staple", "")
	if err != nil {
		b.Fatal(err)
	}
	theirEnd, ourEnd := net.Pipe() // nothing is written
	defer theirEnd.Close()
	s := newSession(g.server, ourEnd)
	s.startup.user, s.policy = "alice", set
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		theirs := client.NewConversation() // has its keys from the first time on
		first, _ := theirs.Step("")
		b.StartTimer()
		ours, _, err := s.newConversation()
		if err != nil {
			b.Fatal(err)
		}
		challenge, _ := ours.Step(first)
		b.StopTimer()
		proof, _ := theirs.Step(challenge)
		b.StartTimer()
		if _, err := ours.Step(proof); err != nil || !ours.Valid() {
			b.Fatalf("the log-in failed: %v", err)
		}
	}
}
