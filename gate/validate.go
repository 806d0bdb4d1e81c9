package gate

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/upstream"
)

// validation collects what is wrong beyond types.
type validation struct {
	doc      *strictyaml.Document
	problems strictyaml.Problems
	warnings strictyaml.Problems // what is no reason to refuse it
}

// report adds a problem, unless the value was reported by the decoder already.
func (v *validation) report(path, format string, args ...any) {
	if v.doc.Sound(path) {
		v.problems = append(v.problems, v.doc.Problem(path, fmt.Sprintf(format, args...)))
	}
}

// adopt reports what another package found in its own settings, which stand at path.
func (v *validation) adopt(path string, found strictyaml.Problems) {
	for _, p := range v.doc.Adopt(path, found) {
		if v.doc.Sound(p.Path) {
			v.problems = append(v.problems, p)
		}
	}
}

func (v *validation) required(path, value string) {
	if value == "" {
		v.report(path, "required")
	}
}

func (v *validation) config(c *Config) {
	v.address("listen", c.Listen)
	if c.OpsListen != "" {
		v.address("ops_listen", c.OpsListen)
	}
	v.required("tls.cert_file", c.TLS.CertFile)
	v.required("tls.key_file", c.TLS.KeyFile)
	v.required("audit.file", c.Audit.File)
	if len(c.Policy) == 0 {
		v.report("policy", "required: the files or folders that say who may do what")
	}
	if c.Deployment == "" || len(c.Deployment) > 32 || strings.ContainsFunc(c.Deployment, func(r rune) bool { return r <= ' ' || r > '~' }) {
		v.report("deployment", "want 1 to 32 printable ASCII characters without spaces")
	}
	for i, path := range c.Policy {
		v.required(fmt.Sprintf("policy[%d]", i), path)
	}
	if len(c.Integrations)+len(c.Discovery) == 0 {
		v.report("integrations", "required: the PostgreSQL servers to guard, unless discovery finds them")
	}
	for i, d := range c.Discovery {
		path := fmt.Sprintf("discovery[%d]", i)
		v.adopt(path, d.Problems())
	}
	if s := c.State; s != nil {
		v.stateConfig(s)
	}
	if c.PeerTimeout < 3*time.Second || c.PeerTimeout > 10*time.Minute {
		v.report("peer_timeout", "want 3s to 10m")
	}
	if len(c.ApplicationNamePrefix) > 63 || strings.ContainsFunc(c.ApplicationNamePrefix, func(r rune) bool { return r < ' ' || r > '~' }) {
		v.report("application_name_prefix", "want at most 63 printable ASCII characters: PostgreSQL keeps no more of a name")
	}
	for i, d := range c.EndNotices {
		if d <= 0 || d > 24*time.Hour {
			v.report(fmt.Sprintf("end_notices[%d]", i), "want up to 24h")
		}
	}
	v.notifications(c.Notifications, c.State != nil)
	names := make(map[string]string)
	for i := range c.Integrations {
		path := fmt.Sprintf("integrations[%d]", i)
		v.integration(path, &c.Integrations[i])
		name := c.Integrations[i].Name
		if other, taken := names[name]; taken && name != "" {
			v.report(path+".name", "%q is taken by %s", name, other)
		}
		names[name] = path
	}
}

func (v *validation) integration(path string, i *Integration) {
	v.required(path+".name", i.Name)
	v.server(path, i)
}

// server checks how a server is reached.
func (v *validation) server(path string, i *Integration) {
	v.required(path+".hostname", i.Hostname)
	v.required(path+".database", i.Database)
	v.hostname(path+".hostname", i.Hostname)
	if strings.ContainsFunc(i.Name, func(r rune) bool { return r < ' ' || r == '/' || r == 0x7f }) {
		v.report(path+".name", "must not contain a slash or control characters: people write it as integration/database")
	}
	if strings.Contains(i.Hostname, ".proxy-") && strings.HasSuffix(i.Hostname, ".rds.amazonaws.com") {
		v.report(path+".hostname", "is an RDS Proxy, which knows only users that are registered with it; name the DB instance or cluster")
	}
	for n, text := range i.Readers {
		if _, err := discover.ParseReader(text, i.Port); err != nil {
			v.report(fmt.Sprintf("%s.readers[%d]", path, n), "%v", err)
		}
	}
	if v.doc.Sound(path + ".ssl_mode") {
		v.adopt(path, i.server().Problems())
		if i.Secret.RDSIAM != nil && i.SSLMode != upstream.VerifyFull {
			v.report(path+".ssl_mode", "secret.rds_iam sends a token in cleartext, which needs verify-full")
		}
	}
	v.adopt(path+".secret", i.Secret.Problems())
}

// hostname reports what is a URL or has a port.
func (v *validation) hostname(path, name string) {
	switch scheme, rest, found := strings.Cut(name, "://"); {
	case found:
		host, _, _ := strings.Cut(rest, "/")
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		v.report(path, "is a URL (%s://): want the name alone, such as %s", scheme, host)
	case strings.ContainsAny(name, "/ @?") && !strings.HasPrefix(name, "/"):
		v.report(path, "want a host name or an address, got %q", name)
	default:
		if host, port, err := net.SplitHostPort(name); err == nil && host != "" {
			v.report(path, "has a port: want hostname: %s and port: %s", host, port)
		}
	}
}

func (v *validation) address(path, address string) {
	_, port, err := net.SplitHostPort(address)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		v.report(path, "want host:port, such as 127.0.0.1:6432")
	}
}
