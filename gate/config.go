package gate

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"time"

	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/secrets"
)

// Config is config.yaml; config.example.yaml explains each key. Paths are relative to the file's folder in the file, and
// absolute once loaded.
type Config struct {
	Listen       string            `yaml:"listen"`
	OpsListen    string            `yaml:"ops_listen"`
	TLS          TLS               `yaml:"tls"`
	Policy       []string          `yaml:"policy"`
	Audit        Audit             `yaml:"audit"`
	Integrations []Integration     `yaml:"integrations"`
	Discovery    []discover.Config `yaml:"discovery"`

	ProxyProtocol []netip.Prefix `yaml:"proxy_protocol"`
	Limits        Limits         `yaml:"limits"`

	State         *StateConfig    `yaml:"state"`
	AdminSocket   string          `yaml:"admin_socket"`
	EndNotices    []time.Duration `yaml:"end_notices"`
	Notifications []Notification  `yaml:"notifications"`

	Deployment   string        `yaml:"deployment"`
	RoleLinger   time.Duration `yaml:"role_linger"`
	LoginTimeout time.Duration `yaml:"login_timeout"`
	PeerTimeout  time.Duration `yaml:"peer_timeout"`
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	LogLevel     LogLevel      `yaml:"log_level"`

	ApplicationNamePrefix string `yaml:"application_name_prefix"`

	file    string               // that it was read from
	doc     *strictyaml.Document // where in the file each key stands
	seen    fingerprints         // of the watched files, taken before they were loaded
	reading *policy.Reading      // of the policy files

	found map[string]about // what is said of those integrations that discovery found, for commands
}

// LogLevel is DEBUG, INFO, WARN or ERROR.
type LogLevel struct{ slog.Level }

// UnmarshalText says which levels there are when it is none of them.
func (l *LogLevel) UnmarshalText(text []byte) error {
	if err := l.Level.UnmarshalText(text); err != nil {
		return fmt.Errorf("want DEBUG, INFO, WARN or ERROR, got %q", text)
	}
	return nil
}

// TLS is towards clients.
type TLS struct {
	CertFile               string `yaml:"cert_file"`
	KeyFile                string `yaml:"key_file"`
	ClientCAFile           string `yaml:"client_ca_file"`
	ClientCertOptional     bool   `yaml:"client_cert_optional"`
	AllowPlaintextLoopback bool   `yaml:"allow_plaintext_loopback"`
}

// Limits is what clients may take, those that have not authenticated above all. See proxy.Limits.
type Limits struct {
	FirstByteTimeout          time.Duration `yaml:"first_byte_timeout"`
	StartupTimeout            time.Duration `yaml:"startup_timeout"`
	Unauthenticated           uint16        `yaml:"unauthenticated"`
	UnauthenticatedPerAddress uint16        `yaml:"unauthenticated_per_address"`
	Connections               uint32        `yaml:"connections"`
}

// Audit is the trail.
type Audit struct {
	File        string `yaml:"file"`
	SpoolFolder string `yaml:"spool_folder"`
	Sync        bool   `yaml:"sync"`
	Statements  bool   `yaml:"statements"`
	Parameters  bool   `yaml:"parameters"`
	Results     bool   `yaml:"results"`
}

// Integration is one PostgreSQL server that is guarded.
type Integration struct {
	Name           string                  `yaml:"name"`
	Hostname       string                  `yaml:"hostname"`
	Port           uint16                  `yaml:"port"`
	Database       string                  `yaml:"database"`
	Labels         map[string]string       `yaml:"labels"`
	Readers        []string                `yaml:"readers"` // host or host:port
	SSLMode        upstream.SSLMode        `yaml:"ssl_mode"`
	SSLRootCert    string                  `yaml:"ssl_root_cert"`
	SSLNegotiation upstream.SSLNegotiation `yaml:"ssl_negotiation"`
	SSLServerName  string                  `yaml:"ssl_server_name"`
	SSLCert        string                  `yaml:"ssl_cert"`
	SSLKey         string                  `yaml:"ssl_key"`
	AllowWeakAuth  bool                    `yaml:"allow_weak_auth"`
	Secret         secrets.Config          `yaml:"secret"`

	ReaderServers []discover.Server // Readers, once loaded
}

// defaultConfig is what a key means that is not there. Integrations have defaults of their own, see setDefaults.
func defaultConfig() Config {
	return Config{
		Listen:        "127.0.0.1:6432",
		OpsListen:     "127.0.0.1:9187",
		ProxyProtocol: []netip.Prefix{},
		Notifications: []Notification{},
		Limits: Limits{
			FirstByteTimeout: 5 * time.Second, StartupTimeout: 15 * time.Second,
			Unauthenticated: 2000, UnauthenticatedPerAddress: 200,
		},
		Audit:        Audit{Statements: true, Parameters: true, Results: true},
		EndNotices:   []time.Duration{15 * time.Minute, 5 * time.Minute, time.Minute},
		Deployment:   "default",
		RoleLinger:   time.Minute,
		LoginTimeout: time.Minute,
		PeerTimeout:  20 * time.Second,
		DrainTimeout: 30 * time.Second,
	}
}

func (i *Integration) setDefaults() {
	if i.Port == 0 {
		i.Port = 5432
	}
	if i.SSLMode == "" {
		i.SSLMode = upstream.VerifyFull
	}
	if i.SSLNegotiation == "" {
		i.SSLNegotiation = upstream.Postgres
	}
	for _, text := range i.Readers {
		if reader, err := discover.ParseReader(text, i.Port); err == nil { // validation says which are wrong
			i.ReaderServers = append(i.ReaderServers, reader)
		}
	}
}

// sameServer reports whether both are reached in the same way, whatever is said of them besides.
func (i Integration) sameServer(o Integration) bool {
	i.Labels, o.Labels = nil, nil
	return reflect.DeepEqual(i, o)
}
