package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/secrets"
)

// config is config.yaml; config.example.yaml explains each key. Paths are relative to the file's folder in the file, and
// absolute once loaded.
type config struct {
	Listen       string              `yaml:"listen"`
	OpsListen    string              `yaml:"ops_listen"`
	TLS          tlsConfig           `yaml:"tls"`
	Policy       []string            `yaml:"policy"`
	Audit        auditConfig         `yaml:"audit"`
	Integrations []integrationConfig `yaml:"integrations"`

	ProxyProtocol []netip.Prefix `yaml:"proxy_protocol"`
	Limits        limitsConfig   `yaml:"limits"`

	Deployment   string        `yaml:"deployment"`
	RoleLinger   time.Duration `yaml:"role_linger"`
	LoginTimeout time.Duration `yaml:"login_timeout"`
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	LogLevel     logLevel      `yaml:"log_level"`

	doc  *strictyaml.Document // where in the file each key stands
	seen fingerprint          // of the watched files, taken before they were loaded
}

// logLevel is DEBUG, INFO, WARN or ERROR.
type logLevel struct{ slog.Level }

// UnmarshalText says which levels there are when it is none of them.
func (l *logLevel) UnmarshalText(text []byte) error {
	if err := l.Level.UnmarshalText(text); err != nil {
		return fmt.Errorf("want DEBUG, INFO, WARN or ERROR, got %q", text)
	}
	return nil
}

type tlsConfig struct {
	CertFile               string `yaml:"cert_file"`
	KeyFile                string `yaml:"key_file"`
	ClientCAFile           string `yaml:"client_ca_file"`
	ClientCertOptional     bool   `yaml:"client_cert_optional"`
	AllowPlaintextLoopback bool   `yaml:"allow_plaintext_loopback"`
}

// limitsConfig is what clients may take that have not authenticated. See proxy.Config.
type limitsConfig struct {
	FirstByteTimeout          time.Duration `yaml:"first_byte_timeout"`
	StartupTimeout            time.Duration `yaml:"startup_timeout"`
	Unauthenticated           uint16        `yaml:"unauthenticated"`
	UnauthenticatedPerAddress uint16        `yaml:"unauthenticated_per_address"`
}

type auditConfig struct {
	File       string `yaml:"file"`
	Sync       bool   `yaml:"sync"`
	Statements bool   `yaml:"statements"`
}

type integrationConfig struct {
	Name           string                  `yaml:"name"`
	Hostname       string                  `yaml:"hostname"`
	Port           uint16                  `yaml:"port"`
	Database       string                  `yaml:"database"`
	SSLMode        upstream.SSLMode        `yaml:"ssl_mode"`
	SSLRootCert    string                  `yaml:"ssl_root_cert"`
	SSLNegotiation upstream.SSLNegotiation `yaml:"ssl_negotiation"`
	SSLServerName  string                  `yaml:"ssl_server_name"`
	SSLCert        string                  `yaml:"ssl_cert"`
	SSLKey         string                  `yaml:"ssl_key"`
	AllowWeakAuth  bool                    `yaml:"allow_weak_auth"`
	Secret         secrets.Config          `yaml:"secret"`
}

// defaultConfig is what a key means that is not there. Integrations have defaults of their own, see setDefaults.
func defaultConfig() config {
	return config{
		Listen:        "127.0.0.1:6432",
		OpsListen:     "127.0.0.1:9187",
		ProxyProtocol: []netip.Prefix{},
		Limits: limitsConfig{
			FirstByteTimeout: 5 * time.Second, StartupTimeout: 15 * time.Second,
			Unauthenticated: 2000, UnauthenticatedPerAddress: 200,
		},
		Audit:        auditConfig{Statements: true},
		Deployment:   "default",
		RoleLinger:   time.Minute,
		LoginTimeout: time.Minute,
		DrainTimeout: 30 * time.Second,
	}
}

func (i *integrationConfig) setDefaults() {
	if i.Port == 0 {
		i.Port = 5432
	}
	if i.SSLMode == "" {
		i.SSLMode = upstream.VerifyFull
	}
	if i.SSLNegotiation == "" {
		i.SSLNegotiation = upstream.Postgres
	}
}

// loadConfig reads and checks a configuration. The error is strictyaml.Problems with all that is wrong in it; what could
// be read is returned with it.
func loadConfig(file string) (config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return defaultConfig(), strictyaml.Problems{{File: file, Message: err.Error()}}
	}
	return parseConfig(file, data)
}

// parseConfig is loadConfig for a file that was read already.
func parseConfig(file string, data []byte) (config, error) {
	cfg := defaultConfig()
	doc, err := strictyaml.Decode(file, data, &cfg)
	var problems strictyaml.Problems
	errors.As(err, &problems)
	if doc == nil {
		return cfg, problems
	}
	for i := range cfg.Integrations {
		cfg.Integrations[i].setDefaults()
	}
	cfg.doc = doc
	v := validation{doc: doc, problems: problems}
	v.config(&cfg)
	folder, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return cfg, strictyaml.Problems{{File: file, Message: err.Error()}}
	}
	cfg.resolvePaths(folder)
	return cfg, v.problems.Err()
}

// loadAll reads the configuration, the policy and the certificates that it names. Its error has what is wrong in any of
// them, all at once.
func loadAll(file string) (config, *policy.Set, error) {
	cfg, err := loadConfig(file)
	if len(cfg.Integrations) == 0 { // no sense in looking for them in the policy
		return cfg, nil, err
	}
	var problems, more strictyaml.Problems
	errors.As(err, &problems)
	problems = append(problems, cfg.fileProblems()...)
	cfg.seen = cfg.fingerprint()
	set, err := cfg.loadPolicy()
	errors.As(err, &more)
	return cfg, set, append(problems, more...).Err()
}

// fileProblems opens the files that the configuration names, but for the policy's.
func (c *config) fileProblems() strictyaml.Problems {
	v := validation{doc: c.doc}
	if c.TLS.CertFile != "" && c.TLS.KeyFile != "" {
		if _, _, err := c.TLS.load(); err != nil {
			v.report("tls", "%v", err)
		}
	}
	if folder := filepath.Dir(c.Audit.File); c.Audit.File != "" {
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			v.report("audit.file", "the folder %s does not exist", folder)
		}
	}
	for i, integration := range c.Integrations {
		settings := integration.server()
		var problem upstream.Problem
		if _, err := upstream.New(settings); len(settings.Problems()) == 0 && errors.As(err, &problem) {
			v.report(fmt.Sprintf("integrations[%d].%s", i, problem.Key), "%s", problem.Message)
		}
	}
	return v.problems
}

// validation collects what is wrong beyond types.
type validation struct {
	doc      *strictyaml.Document
	problems strictyaml.Problems
}

// report adds a problem, unless the value was reported by the decoder already.
func (v *validation) report(path, format string, args ...any) {
	if v.doc.Sound(path) {
		v.problems = append(v.problems, v.doc.Problem(path, fmt.Sprintf(format, args...)))
	}
}

func (v *validation) required(path, value string) {
	if value == "" {
		v.report(path, "required")
	}
}

func (v *validation) config(c *config) {
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
	if len(c.Integrations) == 0 {
		v.report("integrations", "required: the PostgreSQL servers to guard")
	}
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

func (v *validation) integration(path string, i *integrationConfig) {
	v.required(path+".name", i.Name)
	v.required(path+".hostname", i.Hostname)
	v.required(path+".database", i.Database)
	if strings.ContainsFunc(i.Name, func(r rune) bool { return r < ' ' || r == '/' || r == 0x7f }) {
		v.report(path+".name", "must not contain a slash or control characters: people write it as integration/database")
	}
	if strings.Contains(i.Hostname, ".proxy-") && strings.HasSuffix(i.Hostname, ".rds.amazonaws.com") {
		v.report(path+".hostname", "is an RDS Proxy, which knows only users that are registered with it; name the DB instance or cluster")
	}
	if v.doc.Sound(path + ".ssl_mode") {
		for _, p := range i.server().Problems() {
			v.report(path+"."+p.Key, "%s", p.Message)
		}
		if i.Secret.RDSIAM != nil && i.SSLMode != upstream.VerifyFull {
			v.report(path+".ssl_mode", "secret.rds_iam sends a token in cleartext, which needs verify-full")
		}
	}
	if err := i.Secret.Validate(); err != nil {
		v.report(path+".secret", "%v", err)
	}
}

func (v *validation) address(path, address string) {
	_, port, err := net.SplitHostPort(address)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		v.report(path, "want host:port, such as 127.0.0.1:6432")
	}
}

// resolvePaths makes paths absolute that are relative to the folder of the file.
func (c *config) resolvePaths(folder string) {
	resolve := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(folder, *path)
		}
	}
	resolve(&c.TLS.CertFile)
	resolve(&c.TLS.KeyFile)
	resolve(&c.TLS.ClientCAFile)
	resolve(&c.Audit.File)
	for i := range c.Policy {
		resolve(&c.Policy[i])
	}
	for i := range c.Integrations {
		in := &c.Integrations[i]
		if in.SSLRootCert != upstream.RootsSystem && in.SSLRootCert != upstream.RootsRDS {
			resolve(&in.SSLRootCert)
		}
		resolve(&in.SSLCert)
		resolve(&in.SSLKey)
		resolve(&in.Secret.File)
		if vault := in.Secret.HashiCorpVault; vault != nil {
			resolve(&vault.TokenFile)
			resolve(&vault.CAFile)
		}
	}
}

// loadPolicy reads the policy files for the configured integrations.
func (c *config) loadPolicy() (*policy.Set, error) {
	defaults := make(map[string]string)
	for _, i := range c.Integrations {
		defaults[i.Name] = i.Database
	}
	return policy.Load(c.Policy, defaults)
}
