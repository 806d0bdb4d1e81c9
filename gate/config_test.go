package gate

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

const (
	exampleConfig = "../config.example.yaml"
	examplePolicy = "../policy.example.yaml"
)

// required is a configuration that has what is required and nothing else.
const required = `tls: {cert_file: server.crt, key_file: server.key}
policy: [policy.yaml]
audit: {file: trail.jsonl}
integrations:
  - name: orders
    hostname: db.example.com
    database: orders
    ssl_root_cert: ca.pem
    secret: {file: secret.json}
`

// The example says of itself that every key that is not required has its default value.
func TestExampleConfigHasTheDefaults(t *testing.T) {
	t.Parallel()
	example, err := LoadConfig(exampleConfig)
	if err != nil {
		t.Fatalf("the example does not load:\n%v", err)
	}
	defaults := load(t, required)
	for _, cfg := range []*Config{&example, &defaults} {
		// What has no default.
		cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.Audit.File, cfg.Policy = "", "", "", nil
		cfg.State = nil
		for i := range cfg.Integrations {
			it := &cfg.Integrations[i]
			it.Name, it.Hostname, it.Database, it.SSLRootCert, it.Secret = "", "", "", "", secrets.Config{}
		}
	}
	if diff := cmp.Diff(defaults, example, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("the example differs from the defaults (-default +example):\n%s", diff)
	}
}

// A key that is added to config and not to the example is not documented.
func TestExampleConfigNamesEveryKey(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keysOf(reflect.TypeFor[Config]()) {
		if !regexp.MustCompile(`(?m)^[ #-]*` + key + `:`).Match(text) {
			t.Errorf("the example lacks the key %s", key)
		}
	}
}

// keysOf returns the yaml keys of a type and of all types within.
func keysOf(t reflect.Type) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return keysOf(t.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" {
			keys = append(append(keys, key), keysOf(t.Field(i).Type)...)
		}
	}
	return keys
}

// The two examples are meant to be copied together.
func TestExamplesFitTogether(t *testing.T) {
	t.Parallel()
	cfg, err := LoadConfig(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Policy = []string{examplePolicy}
	if _, err := cfg.loadPolicy(); err != nil {
		t.Errorf("policy.example.yaml does not fit config.example.yaml:\n%v", err)
	}
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	got := load(t, required)
	folder := filepath.Dir(got.Audit.File)
	in := func(name string) string { return filepath.Join(folder, name) }
	want := Config{
		Listen:    "127.0.0.1:6432",
		OpsListen: "127.0.0.1:9187",
		TLS:       TLS{CertFile: in("server.crt"), KeyFile: in("server.key")},
		Policy:    []string{in("policy.yaml")},
		Audit:     Audit{File: in("trail.jsonl"), Statements: true, Parameters: true, Results: true},
		Integrations: []Integration{{
			Name: "orders", Hostname: "db.example.com", Port: 5432, Database: "orders",
			SSLMode: upstream.VerifyFull, SSLRootCert: in("ca.pem"), SSLNegotiation: upstream.Postgres, Secret: secrets.Config{File: in("secret.json")},
		}},
		ProxyProtocol: []netip.Prefix{},
		Notifications: []Notification{},
		Limits: Limits{
			FirstByteTimeout: 5 * time.Second, StartupTimeout: 15 * time.Second,
			Unauthenticated: 2000, UnauthenticatedPerAddress: 200,
		},
		EndNotices:   []time.Duration{15 * time.Minute, 5 * time.Minute, time.Minute},
		Deployment:   "default",
		RoleLinger:   time.Minute,
		LoginTimeout: time.Minute,
		PeerTimeout:  20 * time.Second,
		DrainTimeout: 30 * time.Second,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// A relative path starts at the folder of the configuration, not at the folder that the program was started in; an
// absolute one, and a key that is left out, stay as they are.
func TestConfigPaths(t *testing.T) {
	t.Parallel()
	got := load(t, `tls: {cert_file: tls/server.crt, key_file: /etc/hourgate/server.key}
policy: [policy.d, ../shared, /etc/hourgate/policy.yaml]
audit: {file: trail.jsonl}
integrations:
  - {name: a, hostname: a, database: a, ssl_mode: require, secret: {file: a.json}}
  - {name: b, hostname: b, database: b, ssl_root_cert: /etc/ssl/ca.pem, secret: {command: [./fetch]}}
`)
	folder := filepath.Dir(got.Audit.File)
	paths := []string{
		got.TLS.CertFile, got.TLS.KeyFile, got.TLS.ClientCAFile, got.Integrations[0].SSLRootCert,
		got.Integrations[0].Secret.File, got.Integrations[1].SSLRootCert, got.Integrations[1].Secret.Command[0],
	}
	want := []string{
		filepath.Join(folder, "tls/server.crt"), "/etc/hourgate/server.key", "", "",
		filepath.Join(folder, "a.json"), "/etc/ssl/ca.pem", "./fetch",
	}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	wantPolicy := []string{filepath.Join(folder, "policy.d"), filepath.Join(filepath.Dir(folder), "shared"), "/etc/hourgate/policy.yaml"}
	if diff := cmp.Diff(wantPolicy, got.Policy); diff != "" {
		t.Errorf("policy paths (-want +got):\n%s", diff)
	}
}

// All that is wrong is reported at once, each with its place.
func TestBadConfig(t *testing.T) {
	t.Parallel()
	const (
		integration = "  - name: orders\n    hostname: db.example.com\n    database: orders\n"
		secret      = "    ssl_mode: require\n    secret: {env: S}\n"
		known       = "(known: listen, ops_listen, tls, policy, audit, integrations, discovery, proxy_protocol, limits, state, admin_socket, end_notices, notifications, deployment, role_linger, login_timeout, peer_timeout, drain_timeout, log_level, application_name_prefix)"
	)
	tests := []struct {
		name, yaml string
		want       []string // without the file's name
	}{
		{"empty", "# nothing yet\n", []string{"1:1: the file is empty"}},
		{"not YAML", "listen: [\n", []string{"1:1: did not find expected node content"}},
		{"not UTF-8", "listen: \xff\n", []string{"1:9: the file is not UTF-8 text"}},
		{"two documents", required + "---\n" + required, []string{"10:1: a second document starts here: a file holds one"}},
		{"nothing that is required", "listen: 127.0.0.1:6432\n", []string{
			"1:1: audit.file: required",
			"1:1: integrations: required: the PostgreSQL servers to guard, unless discovery finds them",
			"1:1: policy: required: the files or folders that say who may do what",
			"1:1: tls.cert_file: required",
			"1:1: tls.key_file: required",
		}},
		{"an integration with nothing in it", with("integrations:\n  - {}\n"), []string{
			"5:5: integrations[0].database: required",
			"5:5: integrations[0].hostname: required",
			"5:5: integrations[0].name: required",
			"5:5: integrations[0].secret: exactly one of aws_secrets_manager, rds_iam, hashicorp_vault, file, env and command is required, got nothing",
			"5:5: integrations[0].ssl_root_cert: required by ssl_mode verify-full: the file of the certificate authorities to trust",
		}},
		{"unknown keys", required + "lsten: 127.0.0.1:6432\nplugins: []\n", []string{
			`10:1: unknown field "lsten" (did you mean "listen"? ` + known[1:],
			`11:1: unknown field "plugins" ` + known,
		}},
		{"a key twice", required + "policy: [other.yaml]\n", []string{`10:1: "policy" is already set at line 2`}},
		{"wrong types", required + "listen: [127.0.0.1:6432]\nops_listen: {}\nrole_linger: 60\nlog_level: []\ndeployment:\n", []string{
			"10:9: listen: want a single value, got a list",
			"11:13: ops_listen: want a single value, got a mapping",
			`12:14: role_linger: "60" is not a duration (want such as 30s, 1m or 4h)`,
			"13:12: log_level: want a single value, got a list",
			"14:12: deployment: no value given: leave the key out, or write [] for an empty list",
		}},
		{"negative durations", required + "role_linger: -1s\nlogin_timeout: -1s\ndrain_timeout: -1s\n", []string{
			"10:14: role_linger: a duration cannot be negative",
			"11:16: login_timeout: a duration cannot be negative",
			"12:16: drain_timeout: a duration cannot be negative",
		}},
		{"addresses without a port", required + "listen: localhost\nops_listen: \"9187\"\n", []string{
			"10:9: listen: want host:port, such as 127.0.0.1:6432",
			"11:13: ops_listen: want host:port, such as 127.0.0.1:6432",
		}},
		{"a deployment with a space", required + "deployment: my shop\n", []string{
			"10:13: deployment: want 1 to 32 printable ASCII characters without spaces",
		}},
		{"a deployment that is too long", required + "deployment: " + strings.Repeat("x", 33) + "\n", []string{
			"10:13: deployment: want 1 to 32 printable ASCII characters without spaces",
		}},
		{"a name twice", required + integration + secret, []string{`10:11: integrations[1].name: "orders" is taken by integrations[0]`}},
		{"a slash in a name", with("integrations:\n  - name: a/b\n    hostname: h\n    database: d\n" + secret), []string{
			"5:11: integrations[0].name: must not contain a slash or control characters: people write it as integration/database",
		}},
		{"an RDS Proxy", with("integrations:\n  - name: a\n    hostname: a.proxy-abc.eu-west-1.rds.amazonaws.com\n    database: d\n" + secret), []string{
			"6:15: integrations[0].hostname: is an RDS Proxy, which knows only users that are registered with it; name the DB instance or cluster",
		}},
		{"nothing to verify with", with("integrations:\n" + integration + "    ssl_mode: verify-ca\n    secret: {env: S}\n"), []string{
			"5:5: integrations[0].ssl_root_cert: required by ssl_mode verify-ca: the file of the certificate authorities to trust",
		}},
		{"a port and a mode that do not exist", with("integrations:\n" + integration + "    port: 70000\n    ssl_mode: verify_full\n    ssl_root_cert: ca.pem\n    secret: {env: S}\n"), []string{
			"8:11: integrations[0].port: want a number from 0 to 65535, got 70000",
			`9:15: integrations[0].ssl_mode: unknown SSL mode "verify_full" (want disable, allow, prefer, require, verify-ca or verify-full)`,
		}},
		{"URLs and ports for host names", with("integrations:\n  - name: a\n    hostname: https://db.example.com:5432/x\n    database: d\n" + secret +
			"  - name: b\n    hostname: db.example.com:5432\n    database: d\n" + secret), []string{
			"6:15: integrations[0].hostname: is a URL (https://): want the name alone, such as db.example.com",
			"11:15: integrations[1].hostname: has a port: want hostname: db.example.com and port: 5432",
		}},
		{"two secrets", with("integrations:\n" + integration + "    ssl_mode: require\n    secret: {env: S, file: s.json}\n"), []string{
			"9:13: integrations[0].secret: exactly one of aws_secrets_manager, rds_iam, hashicorp_vault, file, env and command is required, got file and env",
		}},
		{"an AWS secret without region and name", with("integrations:\n" + integration + "    ssl_mode: require\n    secret:\n      aws_secrets_manager: {}\n"), []string{
			"10:28: integrations[0].secret.aws_secrets_manager.region: required, unless secret_id is an ARN",
			"10:28: integrations[0].secret.aws_secrets_manager.secret_id: required (name or ARN)",
		}},
		{"everywhere at once", "lissten: x\nops_listen: x\ntls: {cert_file: a}\npolicy: a.yaml\naudit: {sync: maybe}\nintegrations:\n  - name: a\n    prt: 1\nrole_linger: x\n", []string{
			`1:1: unknown field "lissten" (did you mean "listen"? ` + known[1:],
			"2:13: ops_listen: want host:port, such as 127.0.0.1:6432",
			"3:6: tls.key_file: required",
			"4:9: policy: want a list ([a, b], or a line for each that starts with -), got a single value",
			"5:8: audit.file: required",
			`5:15: audit.sync: want true or false without quotes, got "maybe"`,
			"7:5: integrations[0].database: required",
			"7:5: integrations[0].hostname: required",
			"7:5: integrations[0].secret: exactly one of aws_secrets_manager, rds_iam, hashicorp_vault, file, env and command is required, got nothing",
			"7:5: integrations[0].ssl_root_cert: required by ssl_mode verify-full: the file of the certificate authorities to trust",
			`8:5: integrations[0]: unknown field "prt" (did you mean "port"? known: name, hostname, port, database, labels, readers, ssl_mode, ssl_root_cert, ssl_negotiation, ssl_server_name, ssl_cert, ssl_key, allow_weak_auth, secret)`,
			`9:14: role_linger: "x" is not a duration (want such as 30s, 1m or 4h)`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := write(t, test.yaml)
			_, err := LoadConfig(file)
			got := problems(t, err, file)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// A value of the wrong kind in the place of everything is no reason to panic either.
func TestConfigOfTheWrongKind(t *testing.T) {
	t.Parallel()
	for _, yaml := range []string{"- listen\n", "listen\n", "[]\n", "&a {a: *a}\n", "integrations: {}\n", "integrations: [[]]\n", "tls: [x]\n"} {
		file := write(t, yaml)
		_, err := LoadConfig(file)
		problems(t, err, file)
	}
}

// What is missing or open to others is said, and keeps nothing from starting.
func TestConfigWarnings(t *testing.T) {
	t.Parallel()
	file := write(t, strings.Replace(required, "secret: {file: secret.json}", "secret: {file: secret.json}\n  - {name: b, hostname: b, database: b, ssl_mode: require, secret: {env: HOURGATE_TEST_UNSET}}", 1))
	folder := filepath.Dir(file)
	for name, mode := range map[string]os.FileMode{"config.yaml": 0o666, "server.key": 0o644, "policy.yaml": 0o604, "server.crt": 0o644, "ca.pem": 0o644} {
		if name != "config.yaml" {
			if err := os.WriteFile(filepath.Join(folder, name), []byte(required), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(folder, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	got := problems(t, cfg.Warnings().Err(), file)
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], folder+"/", "")
	}
	want := []string{
		"1:1: others than its owner can write config.yaml (mode 0666) (chmod go-w config.yaml)",
		"1:40: tls.key_file: everybody on this machine can read server.key (mode 0644) (chmod o-rwx server.key)",
		"2:10: policy[0]: everybody on this machine can read policy.yaml (mode 0604) (chmod o-rwx policy.yaml)",
		"9:20: integrations[0].secret.file: there is no file secret.json",
		"10:74: integrations[1].secret.env: the environment variable HOURGATE_TEST_UNSET is not set here; it has to be where the gate runs",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestConfigThatCannotBeRead(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, file := range []string{filepath.Join(folder, "nosuch.yaml"), folder} {
		_, err := LoadConfig(file)
		if got := problems(t, err, file); len(got) != 1 {
			t.Errorf("%s: got problems %q, want one", file, got)
		}
	}
}

// What is wrong in the policy is reported together with what is wrong in the configuration.
func TestConfigAndPolicyAtOnce(t *testing.T) {
	t.Parallel()
	file := write(t, required+"listen: localhost\n")
	policy := filepath.Join(filepath.Dir(file), "policy.yaml")
	if err := os.WriteFile(policy, []byte("users: [{nmae: alice}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, set, err := Load(file)
	if set != nil || err == nil {
		t.Fatalf("got set %v and error %v, want an error only", set, err)
	}
	folder := filepath.Dir(file)
	want := []string{
		file + ":1:6: tls: open " + folder + "/server.crt: no such file or directory",
		file + ":8:20: integrations[0].ssl_root_cert: stat " + folder + "/ca.pem: no such file or directory",
		file + ":10:9: listen: want host:port, such as 127.0.0.1:6432",
		policy + `:1:9: users[0].name: required`,
		policy + `:1:10: users[0]: unknown field "nmae" (did you mean "name"? known: name, groups, scram, certificate, disabled)`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// No file makes parseConfig panic. A refusal says where and on one line; what is taken is complete, and safe to use.
func FuzzLoadConfig(f *testing.F) {
	f.Add([]byte(required))
	example, err := os.ReadFile(exampleConfig)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(regexp.MustCompile(`(?m)^ *#.*\n`).ReplaceAll(example, nil))
	for _, fault := range [][2]string{ // each is the only one in a file that is good but for it
		{"secret: {file: secret.json}", "secret: {rds_iam: {region: eu-west-1, username: a}}"}, // none yet
		{"secret: {file: secret.json}", "secret: {rds_iam: {region: eu-west-1, username: a}}\n    ssl_mode: verify-ca"},
		{"secret: {file: secret.json}", "secret: {file: secret.json}\n  - {name: orders, hostname: b, database: b, ssl_root_cert: rds, secret: {env: S}}"},
		{"secret: {file: secret.json}", "secret: {file: a, env: B}"},
		{"ssl_root_cert: ca.pem", "ssl_mode: verify-ca"},
		{"ssl_root_cert: ca.pem", "ssl_mode: verify-ca\n    ssl_root_cert: system"},
		{"ssl_root_cert: ca.pem", "ssl_mode: prefer\n    ssl_negotiation: direct"},
		{"ssl_root_cert: ca.pem", "ssl_mode: disable\n    allow_weak_auth: true"},
		{"ssl_root_cert: ca.pem", "ssl_root_cert: rds\n    ssl_cert: a.pem"},
		{"name: orders", "name: or/ders"},
		{"database: orders", "port: 5433"},
		{"policy: [policy.yaml]", "policy: ['']"},
		{"policy: [policy.yaml]", "policy: []"},
		{"policy:", "listen: localhost\npolicy:"},
		{"policy:", "ops_listen: a:b:1\npolicy:"},
		{"policy:", "deployment: ''\npolicy:"},
		{"policy:", "role_linger: -1s\npolicy:"},
		{"policy:", "proxy_protocol: [10.0.0.1]\npolicy:"},
		{"key_file: server.key", "client_ca_file: ca.pem"},
	} {
		f.Add([]byte(strings.Replace(required, fault[0], fault[1], 1)))
	}
	const file = "/folder/config.yaml"
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 3000 {
			return // takes long and shows nothing that a shorter file does not
		}
		cfg, err := parseConfig(file, data)
		if err == nil {
			checkConfig(t, &cfg)
			return
		}
		var ps strictyaml.Problems
		if !errors.As(err, &ps) || len(ps) == 0 {
			t.Fatalf("got error %#v, want Problems", err)
		}
		for _, p := range ps {
			if p.File != file || p.Line < 1 || p.Column < 1 || p.Message == "" || strings.ContainsAny(p.String(), "\n\r\x00") {
				t.Errorf("bad problem %#v", p)
			}
		}
	})
}

// checkConfig goes through what config.example.yaml promises of a configuration that is taken.
func checkConfig(t *testing.T, cfg *Config) {
	t.Helper()
	paths := append([]string{cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.Audit.File}, cfg.Policy...)
	if len(cfg.Policy) == 0 || slices.Contains(paths, "") {
		t.Errorf("taken, but a path is missing: %q", paths)
	}
	paths = append(paths, cfg.TLS.ClientCAFile)
	names := make(map[string]bool)
	for _, i := range cfg.Integrations {
		if i.SSLRootCert != "system" && i.SSLRootCert != "rds" {
			paths = append(paths, i.SSLRootCert)
		}
		paths = append(paths, i.SSLCert, i.SSLKey, i.Secret.File)
		verifies := i.SSLMode == "verify-full" || i.SSLMode == "verify-ca"
		switch {
		case names[i.Name] || i.Name == "" || strings.ContainsAny(i.Name, "/\n\x00") || i.Hostname == "" || i.Port == 0 || i.Database == "",
			!slices.Contains([]upstream.SSLMode{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}, i.SSLMode),
			verifies && i.SSLRootCert == "" || i.SSLRootCert == "system" && i.SSLMode != "verify-full",
			i.SSLNegotiation != "postgres" && (i.SSLNegotiation != "direct" || i.SSLMode != "require" && !verifies),
			(i.SSLCert == "") != (i.SSLKey == "") || i.AllowWeakAuth && i.SSLMode == "disable",
			i.Secret.Validate() != nil || i.Secret.RDSIAM != nil && i.SSLMode != "verify-full":
			t.Errorf("taken, but not sound: %+v", i)
		}
		names[i.Name] = true
	}
	for _, path := range paths {
		if path != "" && !filepath.IsAbs(path) {
			t.Errorf("path %q is not absolute", path)
		}
	}
	for _, prefix := range cfg.ProxyProtocol {
		if !prefix.IsValid() {
			t.Errorf("balancers at %v", prefix)
		}
	}
	if len(names) == 0 || !hasPort(cfg.Listen) || cfg.OpsListen != "" && !hasPort(cfg.OpsListen) || len(cfg.Deployment) < 1 || len(cfg.Deployment) > 32 ||
		min(cfg.RoleLinger, cfg.LoginTimeout, cfg.DrainTimeout, cfg.Limits.FirstByteTimeout, cfg.Limits.StartupTimeout) < 0 {
		t.Errorf("taken, but not complete: %+v", cfg)
	}
}

func hasPort(address string) bool {
	i := strings.LastIndexByte(address, ':')
	_, err := strconv.ParseUint(address[i+1:], 10, 16)
	return i >= 0 && err == nil
}

// with is required with other integrations.
func with(integrations string) string {
	before, _, _ := strings.Cut(required, "integrations:")
	return before + integrations
}

// load loads a configuration that is valid.
func load(t *testing.T, yaml string) Config {
	t.Helper()
	cfg, err := LoadConfig(write(t, yaml))
	if err != nil {
		t.Fatalf("loading a valid configuration: %v", err)
	}
	return cfg
}

func write(t *testing.T, yaml string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// problems returns what is wrong, sorted by place, without the file's name.
func problems(t *testing.T, err error, file string) (lines []string) {
	t.Helper()
	var ps strictyaml.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("got error %v, want strictyaml.Problems", err)
	}
	for line := range strings.SplitSeq(ps.Err().Error(), "\n") {
		lines = append(lines, strings.TrimPrefix(line, file+":"))
	}
	return lines
}
