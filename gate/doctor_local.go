package gate

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hourgate/hourgate/roles/preflight"
)

// probeTimeout is how long doctor waits for what listens on one of our ports.
const probeTimeout = 3 * time.Second

// certificate looks at what clients are shown: whether they can build a chain from it, for which names, and until when.
func (d *doctor) certificate() {
	pair, _, err := d.cfg.TLS.load()
	if err != nil {
		return // Load has said so
	}
	var chain []*x509.Certificate
	for _, der := range pair.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			d.add("", "certificate", preflight.Fail, "", "%v", err)
			return
		}
		chain = append(chain, cert)
	}
	d.names(chain[0])
	d.chain(chain)
	d.lasts("", "certificate", firstEnd(chain), "put a new one in place of "+d.cfg.TLS.CertFile)
	d.private(d.cfg.TLS.KeyFile, "tls.key_file")
}

func (d *doctor) names(leaf *x509.Certificate) {
	var names []string
	names = append(names, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		d.add("", "names", preflight.Fail, "a certificate with subject alternative names", "the certificate has no name but CN=%q, which clients do not look at", leaf.Subject.CommonName)
		return
	}
	d.add("", "names", preflight.OK, "", "clients connect with sslmode=verify-full to %s", strings.Join(names, ", "))
}

// chain checks that each certificate signs the one before it, and that the key is strong enough for today's clients.
func (d *doctor) chain(chain []*x509.Certificate) {
	leaf := chain[0]
	if rsaKey, ok := leaf.PublicKey.(*rsa.PublicKey); ok && rsaKey.N.BitLen() < 2048 {
		d.add("", "chain", preflight.Fail, "an RSA key of 2048 bits or an ECDSA key", "the key has %d bits, which clients refuse", rsaKey.N.BitLen())
	} else if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok && rsaKey == nil {
		d.add("", "chain", preflight.Warn, "an ECDSA or RSA key", "some clients can't use a key of type %T", leaf.PublicKey)
	}
	if leaf.IsCA {
		d.add("", "chain", preflight.Warn, "tls.cert_file begins with the gate's own certificate", "the first certificate is an authority's")
	}
	for i := 1; i < len(chain); i++ {
		if err := chain[i-1].CheckSignatureFrom(chain[i]); err != nil {
			d.add("", "chain", preflight.Fail, "the gate's certificate first, then each the signer of the one before",
				"certificate %d of %s (%s) did not sign the one before it: %v", i+1, d.cfg.TLS.CertFile, chain[i].Subject, err)
			return
		}
	}
	last := chain[len(chain)-1]
	d.add("", "chain", preflight.OK, "", "%d certificate(s); clients need the authority %q (sslrootcert)", len(chain), last.Issuer)
}

// private warns of a key or secret that everybody on the machine can read.
func (d *doctor) private(file, what string) {
	info, err := os.Stat(file)
	if err == nil && info.Mode().Perm()&0o004 != 0 {
		d.add("", "files", preflight.Warn, "chmod o-r "+file, "everybody on this machine can read %s (%s)", file, what)
	}
}

// ports looks at the two ports: free, ours, or somebody else's.
func (d *doctor) ports(ctx context.Context) {
	if d.port(ctx, "listen", d.cfg.Listen) {
		d.neighbour(ctx)
	}
	if d.cfg.OpsListen != "" && d.port(ctx, "ops_listen", d.cfg.OpsListen) {
		d.ready(ctx)
	}
}

// port reports that somebody listens already.
func (d *doctor) port(ctx context.Context, key, address string) (used bool) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		_ = listener.Close()
		d.add("", key, preflight.OK, "", "%s is free; no gate runs there", address)
	case errors.Is(err, syscall.EADDRINUSE):
		return true
	case errors.Is(err, syscall.EACCES):
		d.add("", key, preflight.Fail, "a port above 1023, or AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit", "%v", err)
	default:
		d.add("", key, preflight.Fail, key+": an address of this machine, or 0.0.0.0", "%v", err)
	}
	return false
}

// neighbour asks what listens on our port for its certificate.
func (d *doctor) neighbour(ctx context.Context) {
	if len(d.cfg.ProxyProtocol) > 0 {
		d.add("", "listen", preflight.OK, "", "%s is in use; it was not asked by whom, because it takes the PROXY protocol", d.cfg.Listen)
		return
	}
	shown, err := shownCertificate(ctx, local(d.cfg.Listen))
	ours, _, loadErr := d.cfg.TLS.load()
	switch {
	case err != nil:
		d.add("", "listen", preflight.Fail, "another port, or the end of what uses this one: ss -ltnp", "%s is in use by something that is no gate: %v", d.cfg.Listen, err)
	case loadErr != nil || !bytes.Equal(shown, ours.Certificate[0]):
		d.add("", "listen", preflight.Warn, "SIGHUP, if it is this gate; the log says why a certificate was not loaded", "%s shows another certificate than %s", d.cfg.Listen, d.cfg.TLS.CertFile)
	default:
		d.add("", "listen", preflight.OK, "", "a gate answers on %s, with this certificate", d.cfg.Listen)
	}
}

// shownCertificate does what a client does first: SSLRequest and a TLS handshake. It leaves before it says who it is.
func shownCertificate(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(probeTimeout))
	answer := make([]byte, 1)
	if _, err := conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil { // SSLRequest
		return nil, err
	}
	if _, err := conn.Read(answer); err != nil || answer[0] != 'S' {
		return nil, fmt.Errorf("it does not offer TLS as PostgreSQL does")
	}
	secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, NextProtos: []string{"postgresql"}}) //nolint:gosec // it is compared with the file
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secured.ConnectionState().PeerCertificates[0].Raw, nil
}

// ready asks the operator port.
func (d *doctor) ready(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local(d.cfg.OpsListen)+"/readyz", http.NoBody)
	if err != nil {
		d.add("", "ops_listen", preflight.Fail, "", "%v", err)
		return
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		d.add("", "ops_listen", preflight.Fail, "another port, or the end of what uses this one: ss -ltnp", "%s is in use by something that is no gate: %v", d.cfg.OpsListen, err)
		return
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		d.add("", "ops_listen", preflight.Warn, "", "/readyz of %s answers %s: starting or draining", d.cfg.OpsListen, response.Status)
		return
	}
	d.add("", "ops_listen", preflight.OK, "", "a gate on %s is ready", d.cfg.OpsListen)
}

// local is the address at which this machine reaches what listens on another.
func local(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return listen
}

// Bounds of the room for the trail. What can't be recorded does not happen, so a full disk lets nobody in.
const (
	roomWarn = 2 << 30
	roomFail = 64 << 20
)

// trail checks that the gate can write its trail, and for how long.
func (d *doctor) trail() {
	file := d.cfg.Audit.File
	folder := filepath.Dir(file)
	if file == "" {
		return // Load has said so
	}
	if err := writable(file); err != nil {
		d.add("", "trail", preflight.Fail, "the gate's user must be able to write it: chown hourgate "+folder, "%v", err)
		return
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(folder, &disk); err != nil {
		d.add("", "trail", preflight.Fail, "", "%v", fmt.Errorf("looking at the disk of %s: %w", folder, err))
		return
	}
	room := disk.Bavail * uint64(disk.Bsize) //nolint:gosec,unconvert // a block size is positive; its type differs between systems
	switch {
	case room < roomFail:
		d.add("", "trail", preflight.Fail, "make room", "%s has %d MiB left; when it is full nobody gets in", folder, room>>20)
	case room < roomWarn:
		d.add("", "trail", preflight.Warn, "make room", "%s has %d MiB left; when it is full nobody gets in", folder, room>>20)
	default:
		d.add("", "trail", preflight.OK, "", "%s can be written; %d GiB are left", file, room>>30)
	}
}

// writable opens the file for appending, or, where it is not there, makes another beside it and removes it.
func writable(file string) error {
	opened, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		opened, err = os.CreateTemp(filepath.Dir(file), ".doctor-")
		if err == nil {
			defer os.Remove(opened.Name()) //nolint:errcheck // it was made here
		}
	}
	if err != nil {
		return err
	}
	return opened.Close()
}
