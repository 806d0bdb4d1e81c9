package upstream_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/upstream"
)

const (
	name    = "server.test"
	address = "127.0.0.1"
)

// What a client makes of a certificate.
const (
	goodName  = iota // chain and name are right
	goodChain        // the chain is right, the name is not
	bad
)

// certificateCell is a certificate that a server shows to who looks for host.
type certificateCell struct {
	title, host string
	cert        *tls.Certificate
	roots       []byte // of the root file, DER; nil is the authority
	want        int
}

func certificates(t *testing.T, authority *pgtest.Authority) []certificateCell {
	t.Helper()
	var cells []certificateCell
	add := func(title, host string, want int, change func(*x509.Certificate)) *certificateCell {
		cells = append(cells, certificateCell{title: title, host: host, want: want, cert: authority.IssueCustom(t, change)})
		return &cells[len(cells)-1]
	}
	names := func(commonName string, sans ...any) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Subject.CommonName = commonName
			for _, san := range sans {
				switch san := san.(type) {
				case string:
					c.DNSNames = append(c.DNSNames, san)
				case net.IP:
					c.IPAddresses = append(c.IPAddresses, san)
				}
			}
		}
	}
	here, there := net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 9)

	add("name", name, goodName, names("", name))
	add("name among others", name, goodName, names("", "a.test", name, "b.test"))
	add("name in capitals", name, goodName, names("", "SERVER.TEST"))
	add("another name", name, goodChain, names("", "other.test"))
	add("another name, CN right", name, goodChain, names(name, "other.test"))
	add("CN only", name, goodName, names(name))
	add("another CN only", name, goodChain, names("other.test"))
	add("no name at all", name, goodChain, names(""))
	add("CN, and an address", name, goodName, names(name, there))
	add("wildcard", name, goodName, names("", "*.test"))
	add("wildcard in CN", name, goodName, names("*.test"))
	add("wildcard for two labels", "a."+name, goodChain, names("", "*.test"))
	add("wildcard for no label", name, goodChain, names("", "*."+name))
	add("wildcard alone", name, goodChain, names("", "*"))
	add("wildcard in the middle", "a."+name, goodChain, names("", "a.*.test"))
	add("wildcard for a part", name, goodChain, names("", "s*.test"))
	add("address", address, goodName, names("", here))
	add("another address", address, goodChain, names("", there))
	add("another address, CN right", address, goodChain, names(address, there))
	add("address as a name", address, goodName, names("", address))
	add("address in CN", address, goodName, names(address))
	add("address in CN, and a name", address, goodName, names(address, "other.test"))
	add("a name for an address", address, goodChain, names("", name))
	add("wildcard for an address", address, goodName, names("", "*.0.0.1"))

	add("expired", name, bad, func(c *x509.Certificate) { names("", name)(c); c.NotAfter = time.Now().Add(-time.Hour) })
	add("not valid yet", name, bad, func(c *x509.Certificate) { names("", name)(c); c.NotBefore = time.Now().Add(time.Hour) })
	add("for clients", name, bad, func(c *x509.Certificate) {
		names("", name)(c)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	add("for no use in particular", name, goodName, func(c *x509.Certificate) { names("", name)(c); c.ExtKeyUsage = nil })
	add("of another authority", name, bad, names("", name)).roots = pgtest.CA(t).DER()

	intermediate := authority.Intermediate(t)
	chained := intermediate.IssueCustom(t, names("", name))
	cells = append(cells,
		certificateCell{title: "intermediate not sent", host: name, cert: chained, want: bad},
		certificateCell{title: "intermediate in the root file alone", host: name, cert: chained, roots: intermediate.DER(), want: bad},
		certificateCell{
			title: "intermediate in the root file too", host: name, cert: chained, want: goodName,
			roots: slices.Concat(authority.DER(), intermediate.DER()),
		})
	sent := *chained
	sent.Certificate = append(slices.Clone(sent.Certificate), intermediate.DER())
	return append(cells, certificateCell{title: "intermediate sent", host: name, cert: &sent, want: goodName})
}

// rootFile writes certificates, concatenated as DER, as PEM.
func rootFile(t *testing.T, der []byte) string {
	t.Helper()
	certs, err := x509.ParseCertificates(der)
	if err != nil {
		t.Fatal(err)
	}
	var content []byte
	for _, cert := range certs {
		content = append(content, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Every kind of certificate in every mode that looks at it, by us and by libpq 15 and 18. (Version 14 knows no addresses.)
func TestCertificates(t *testing.T) {
	t.Parallel()
	authority := pgtest.CA(t)
	for _, cell := range certificates(t, authority) {
		if cell.roots == nil {
			cell.roots = authority.DER()
		}
		file := rootFile(t, cell.roots)
		for _, mode := range modes[2:] { // prefer and stronger
			want := "ssl"
			if cell.want == goodName || cell.want == goodChain && mode != upstream.VerifyFull {
				want = tlsIn
			}
			start := func(t *testing.T) *pgtest.Scripted {
				t.Helper()
				return pgtest.StartScripted(t, pgtest.Script{
					SSL: pgtest.SSLYes, Certificate: cell.cert, Plain: pgtest.LoginSCRAM, TLS: pgtest.LoginSCRAM, Password: password,
				})
			}
			t.Run(fmt.Sprintf("%s/%s", cell.title, mode), func(t *testing.T) {
				t.Parallel()
				server := start(t)
				err := dial(t, upstream.Config{Host: address, Port: server.Port, SSLMode: mode, RootCert: file, ServerName: cell.host}, upstream.Login{})
				// A handshake ends for the server before the client has judged; in TLS 1.3 at least.
				if got := strings.TrimSuffix(server.Trace(), ",tls"); got != want {
					t.Errorf("got %q, want %q (error: %v)", got, want, err)
				}
			})
			for _, libpq := range []int{15, 18} {
				t.Run(fmt.Sprintf("libpq %d/%s/%s", libpq, cell.title, mode), func(t *testing.T) {
					t.Parallel()
					want := want
					if mode == upstream.Prefer && want == "ssl" {
						want = "ssl | " + plainIn // the deviation: we don't go on in plaintext after TLS has failed
					}
					server := start(t)
					err := psql(t, libpq, cell.host, server.Port, "PGSSLMODE="+string(mode), "PGSSLROOTCERT="+file)
					if got := server.Trace(); got != want {
						t.Errorf("got %q, want %q (error: %v)", got, want, err)
					}
				})
			}
		}
	}
}

// A certificate for another host is refused with its names, each whole, and not with all of hundreds.
func TestNamesInTheMessage(t *testing.T) {
	t.Parallel()
	authority := pgtest.CA(t)
	const long = "orders-production-primary.c1a2b3c4d5e6.eu-central-1.rds.amazonaws.com"
	cert := authority.IssueCustom(t, func(c *x509.Certificate) {
		c.Subject.CommonName = "common-name-of-" + long
		c.DNSNames, c.IPAddresses = []string{long, "a\nforged.example"}, []net.IP{net.ParseIP("2001:db8:1111:2222:3333:4444:5555:6666")}
		for n := range 20 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("replica-%02d.example.com", n))
		}
	})
	server := pgtest.StartScripted(t, pgtest.Script{SSL: pgtest.SSLYes, Certificate: cert, TLS: pgtest.LoginSCRAM, Password: password})
	err := dial(t, upstream.Config{Host: address, Port: server.Port, SSLMode: upstream.VerifyFull, RootCert: rootFile(t, authority.DER()), ServerName: "billing.example.com"}, upstream.Login{})
	if err == nil {
		t.Fatal("it was believed")
	}
	for _, want := range []string{strconv.Quote(long), `"a\nforged.example"`, `"replica-07.example.com"`, " and 14 more", `not for "billing.example.com"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in: %v", want, err)
		}
	}
}

// A name is sent to the server, an address is not.
func TestServerName(t *testing.T) {
	t.Parallel()
	cert, caFile := shown(t)
	for host, want := range map[string]string{name: name, address: ""} {
		server := pgtest.StartScripted(t, pgtest.Script{SSL: pgtest.SSLYes, Certificate: cert, TLS: pgtest.LoginSCRAM, Password: password})
		cfg := upstream.Config{Host: address, Port: server.Port, SSLMode: upstream.VerifyFull, RootCert: caFile, ServerName: host}
		if err := dial(t, cfg, upstream.Login{}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if got := server.ServerNames(); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: sent %q as SNI, want %q", host, got, want)
		}
	}
}

// TLS first: the server must answer with ALPN, and nothing else is tried.
func TestDirect(t *testing.T) {
	t.Parallel()
	cert, caFile := shown(t)
	honest := pgtest.Script{Direct: true, Certificate: cert, TLS: pgtest.LoginSCRAM, SSL: pgtest.SSLYes, Password: password}
	noALPN, older := honest, honest
	noALPN.NoALPN, older.Direct = true, false
	for _, mode := range []upstream.SSLMode{upstream.Require, upstream.VerifyCA, upstream.VerifyFull} {
		for title, rule := range map[string]struct {
			script pgtest.Script
			want   string
		}{
			"17 and later": {honest, "direct,tls,proof,in"},
			"no ALPN":      {noALPN, "direct"},
			"older":        {older, ""},
		} {
			t.Run(fmt.Sprintf("%s/%s", title, mode), func(t *testing.T) {
				t.Parallel()
				server := pgtest.StartScripted(t, rule.script)
				cfg := upstream.Config{
					Host: address, Port: server.Port, SSLMode: mode, SSLNegotiation: upstream.Direct, RootCert: caFile, ServerName: name,
				}
				err := dial(t, cfg, upstream.Login{})
				if got := server.Trace(); got != rule.want {
					t.Errorf("got %q, want %q (error: %v)", got, rule.want, err)
				}
				server = pgtest.StartScripted(t, rule.script)
				err = psql(t, 18, name, server.Port, "PGSSLMODE="+string(mode), "PGSSLNEGOTIATION=direct", "PGSSLROOTCERT="+caFile)
				if got := server.Trace(); got != rule.want {
					t.Errorf("libpq 18: got %q, want %q (error: %v)", got, rule.want, err)
				}
			})
		}
	}
	for _, major := range []int{16, 17, 18} {
		db := pgtest.Start(t, major).Database(t)
		cfg := config(db.Server, upstream.VerifyFull, db.Server.CAFile)
		cfg.SSLNegotiation = upstream.Direct
		want := encrypted
		if major < 17 {
			want = notReached
		}
		if got := connect(t, newServer(t, cfg), owner(db)); got != want {
			t.Errorf("PostgreSQL %d: got %s, want %s", major, got, want)
		}
	}
}

// A client certificate is shown to a server that asks for one, and is read again when it is replaced.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	cert, caFile := shown(t)
	authority := pgtest.CA(t)
	clientCAs := x509.NewCertPool()
	ca, err := x509.ParseCertificate(authority.DER())
	if err != nil {
		t.Fatal(err)
	}
	clientCAs.AddCert(ca)
	server := pgtest.StartScripted(t, pgtest.Script{
		SSL: pgtest.SSLYes, Certificate: cert, ClientCAs: clientCAs, TLS: pgtest.LoginSCRAM, Password: password,
	})
	folder := t.TempDir()
	certFile, keyFile := filepath.Join(folder, "client.crt"), filepath.Join(folder, "client.key")
	install := func(authority *pgtest.Authority) {
		newCert, newKey := authority.Issue(t, "hourgate")
		if err := errors.Join(os.Rename(newKey, keyFile), os.Rename(newCert, certFile)); err != nil {
			t.Fatal(err)
		}
	}
	install(pgtest.CA(t)) // of an authority that the server does not know
	cfg := upstream.Config{
		Host: address, Port: server.Port, SSLMode: upstream.VerifyFull, RootCert: caFile, ClientCert: certFile, ClientKey: keyFile,
	}
	s := newServer(t, cfg)
	if got := connect(t, s, upstream.Login{User: "alice", Password: password}); got == encrypted {
		t.Error("logged in with a certificate of another authority")
	}
	install(authority)
	conn, err := upstream.Connect(t.Context(), s, upstream.Login{User: "alice", Password: password}, pgconn.ConnectConfig)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context())
	cfg.ClientCert, cfg.ClientKey = "", ""
	if err := dial(t, cfg, upstream.Login{}); err == nil {
		t.Error("logged in without a certificate")
	}
}

// Tokens and, where they are allowed, weak passwords: over TLS only.
func TestPasswordsInCleartext(t *testing.T) {
	t.Parallel()
	cert, caFile := shown(t)
	for title, rule := range map[string]struct {
		mode        upstream.SSLMode
		login       pgtest.Login
		token, weak bool
		want        string
	}{
		"token":                           {upstream.VerifyFull, "cleartext", true, false, "ssl,tls,cleartext,in"},
		"token, name not verified":        {upstream.VerifyCA, "cleartext", true, false, ""},
		"token, MD5 asked for":            {upstream.VerifyFull, "md5", true, false, "ssl,tls"},
		"token, nothing asked for":        {upstream.VerifyFull, "trust", true, false, "ssl,tls"},
		"weak allowed, cleartext":         {upstream.VerifyFull, "cleartext", false, true, "ssl,tls,cleartext,in"},
		"weak allowed, MD5":               {upstream.Require, "md5", false, true, "ssl,tls,md5,in"},
		"weak allowed, SCRAM":             {upstream.Require, "scram", false, true, "ssl,tls,proof,in"},
		"weak allowed, nothing asked for": {upstream.VerifyFull, "trust", false, true, "ssl,tls"},
		"weak allowed, plaintext":         {upstream.Allow, "cleartext", false, true, "plain"},
		"weak allowed, plaintext, MD5":    {upstream.Allow, "md5", false, true, "plain"},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			server := pgtest.StartScripted(t, pgtest.Script{
				SSL: pgtest.SSLYes, Certificate: cert, Plain: rule.login, TLS: rule.login, Password: password,
			})
			cfg := upstream.Config{Host: address, Port: server.Port, SSLMode: rule.mode, AllowWeakAuth: rule.weak}
			if rule.mode.Verifies() {
				cfg.RootCert = caFile
			}
			err := dial(t, cfg, upstream.Login{Token: rule.token})
			if got := server.Trace(); got != rule.want {
				t.Errorf("got %q, want %q (error: %v)", got, rule.want, err)
			}
			if err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("the error has the password: %v", err)
			}
		})
	}
}

// What was negotiated can be told from the connection.
func TestDescribe(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	for _, rule := range []struct {
		mode        upstream.SSLMode
		root        string
		want, label string
	}{
		{upstream.Disable, "", "none", "none"},
		{upstream.Require, "", "TLS 1.3, not verified", "unverified"},
		{upstream.Require, db.Server.CAFile, "TLS 1.3, chain verified", "chain"},
		{upstream.VerifyCA, db.Server.CAFile, "TLS 1.3, chain verified", "chain"},
		{upstream.VerifyFull, db.Server.CAFile, "TLS 1.3, verified", "verified"},
	} {
		s := newServer(t, config(db.Server, rule.mode, rule.root))
		conn, err := upstream.Connect(t.Context(), s, owner(db), pgconn.ConnectConfig)
		if err != nil {
			t.Fatal(err)
		}
		got := s.Describe(conn.Conn())
		if got.String() != rule.want || got.Label() != rule.label {
			t.Errorf("%s: got %s (%s), want %s (%s)", rule.mode, got, got.Label(), rule.want, rule.label)
		}
		_ = conn.Close(t.Context())
	}
}

// The roots that need no file.
func TestBuiltInRoots(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	for _, roots := range []string{upstream.RootsRDS, upstream.RootsSystem} {
		// Neither knows the authority of the test.
		if got := connect(t, newServer(t, config(db.Server, upstream.VerifyFull, roots)), owner(db)); got != notReached {
			t.Errorf("%s: got %s, want %s", roots, got, notReached)
		}
	}
}

// Settings that make no sense together.
func TestProblems(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]upstream.Config{
		"":                {SSLMode: upstream.VerifyFull, RootCert: upstream.RootsRDS, SSLNegotiation: upstream.Direct},
		"ssl_root_cert":   {SSLMode: upstream.VerifyCA, RootCert: upstream.RootsSystem},
		"ssl_negotiation": {SSLMode: upstream.Prefer, SSLNegotiation: upstream.Direct},
		"ssl_key":         {SSLMode: upstream.Require, ClientCert: "a.crt"},
		"ssl_cert":        {SSLMode: upstream.Require, ClientKey: "a.key"},
		"ssl_server_name": {SSLMode: upstream.Disable, ServerName: "a.test"},
		"allow_weak_auth": {SSLMode: upstream.Disable, AllowWeakAuth: true},
	} {
		got := ""
		for _, p := range cfg.Problems() {
			got += p.Path
		}
		if got != want {
			t.Errorf("%+v: got problems with %q, want %q", cfg, got, want)
		}
	}
}
