package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/secrets"
)

func document(username, password string) string {
	return fmt.Sprintf(`{"username":%q,"password":%q}`, username, password)
}

func cred(username, password string) secrets.Credential {
	return secrets.Credential{Username: username, Password: secrets.NewPassword(password)}
}

func openSource(t *testing.T, c secrets.Config) secrets.Source {
	t.Helper()
	source, err := secrets.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func envSource(t *testing.T, value string) secrets.Source {
	t.Helper()
	t.Setenv("HOURGATE_TEST_SECRET", value)
	return openSource(t, secrets.Config{Env: "HOURGATE_TEST_SECRET"})
}

func TestDocuments(t *testing.T) {
	long := strings.Repeat("u", 63)
	for name, tt := range map[string]struct {
		doc  string
		want secrets.Credential
	}{
		"plain":        {document("admin", "p"), cred("admin", "p")},
		"RDS's own":    {`{"engine":"postgres","host":"evil","username":"admin","password":"p","port":5432,"dbname":"x","masterarn":null}`, cred("admin", "p")},
		"port as text": {`{"port":"5432","password":"p","username":"admin"}`, cred("admin", "p")},
		"look-alikes":  {`{"Username":"eve","username":"admin","USERNAME":"eve","password":"p","Password":"q"}`, cred("admin", "p")},
		"white space":  {" \n" + document("admin", " p ") + "\n", cred("admin", " p ")},
		"escapes":      {`{"username":"\u00e4","password":"\"\\\n\ud83d\ude00"}`, cred("ä", "\"\\\n😀")},
		"63 bytes":     {document(long, "p"), cred(long, "p")},
	} {
		got, err := envSource(t, tt.doc).Fetch(t.Context(), secrets.Current)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !got.Equal(tt.want) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// Each document has the canary somewhere, and no error may have it.
var malformed = map[string]string{
	"bare password":       canary,
	"a string":            fmt.Sprintf("%q", canary),
	"a list":              fmt.Sprintf("[%q]", canary),
	"cut off":             document("admin", canary)[:40],
	"more after it":       document("admin", canary) + canary,
	"twice":               document("admin", canary) + document("admin", canary),
	"not quoted":          `{username: admin, password: ` + canary + `}`,
	"single quotes":       `{'username': 'admin', 'password': '` + canary + `'}`,
	"bad escape":          `{"username": "admin", "password": "\c` + canary + `"}`,
	"password a number":   `{"username":"` + canary + `","password":12345}`,
	"password null":       `{"username":"` + canary + `","password":null}`,
	"password a list":     `{"username":"admin","password":["` + canary + `"]}`,
	"username an object":  `{"username":{"` + canary + `":1},"password":"p"}`,
	"no username":         `{"user":"admin","password":"` + canary + `"}`,
	"keys in upper case":  `{"USERNAME":"admin","PASSWORD":"` + canary + `"}`,
	"secret as key":       `{"` + canary + `":""}`,
	"empty username":      document("", canary),
	"empty password":      document(canary, ""),
	"NUL in username":     `{"username":"a\u0000b","password":"` + canary + `"}`,
	"NUL in password":     `{"username":"admin","password":"` + canary + `\u0000"}`,
	"64 bytes of name":    document(canary+strings.Repeat("u", 64-len(canary)), canary),
	"not UTF-8":           document("admin", canary)[:20] + "\xff" + canary,
	"longer than allowed": document("admin", canary+strings.Repeat("x", 64<<10)),
	"bad UTF-16":          "\xff\xfe{\x00",
}

func TestMalformedDocumentsAreNamedAndNotQuoted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret.json")
	source := openSource(t, secrets.Config{File: file})
	for name, doc := range malformed {
		if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := source.Fetch(t.Context(), secrets.Current)
		if !errors.Is(err, secrets.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		if leaks(err.Error()) || leaks(fmt.Sprintf("%#v", err)) {
			t.Errorf("%s: the error leaks: %v", name, err)
		}
		if !strings.Contains(err.Error(), file) {
			t.Errorf("%s: the error does not name the source: %v", name, err)
		}
		if got.Username != "" || got.Password.Reveal() != "" {
			t.Errorf("%s: got a credential with the error", name)
		}
	}
	for _, doc := range []string{"", " \n", "null", "{}", "[]", "0"} {
		if _, err := envSource(t, doc).Fetch(t.Context(), secrets.Current); !errors.Is(err, secrets.ErrMalformed) {
			t.Errorf("%q: got %v", doc, err)
		}
	}
}

func TestValidate(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/orders-AbCdEf"
	const one = "exactly one of aws_secrets_manager, rds_iam, hashicorp_vault, file, env and command is required, got "
	tests := []struct {
		name string
		c    secrets.Config
		want string
	}{
		{"nothing", secrets.Config{}, one + "nothing"},
		{"two", secrets.Config{File: "f", Env: "E"}, one + "file and env"},
		{"all", secrets.Config{
			AWSSecretsManager: &secrets.AWSSecretsManager{}, RDSIAM: &secrets.RDSIAM{}, HashiCorpVault: &secrets.HashiCorpVault{},
			File: "f", Env: "E", Command: []string{},
		}, one + "aws_secrets_manager and rds_iam and hashicorp_vault and file and env and command"},
		{"file", secrets.Config{File: "f"}, ""},
		{"env", secrets.Config{Env: "E"}, ""},
		{"env with value", secrets.Config{Env: "E=x"}, "env: not the name of an environment variable"},
		{"command", secrets.Config{Command: []string{"vault", "read"}}, ""},
		{"empty command", secrets.Config{Command: []string{}}, "command: the first element must name a program"},
		{"command without name", secrets.Config{Command: []string{"", "x"}}, "command: the first element must name a program"},
		{"aws", secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{Region: "eu-west-1", SecretID: "prod/orders"}}, ""},
		{"arn", secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{SecretID: arn}}, ""},
		{"arn and its region", secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{Region: "eu-west-1", SecretID: arn}}, ""},
		{
			"arn and another region",
			secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{Region: "us-east-1", SecretID: arn}},
			"aws_secrets_manager.region: is us-east-1, but the ARN in secret_id is of eu-west-1",
		},
		{
			"role of another account",
			secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{SecretID: arn, AssumeRole: "arn:aws:iam::123456789012:role/hourgate-secrets", ExternalID: "x"}},
			"",
		},
		{
			"role by its name",
			secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{SecretID: arn, AssumeRole: "hourgate-secrets"}},
			"aws_secrets_manager.assume_role: want the ARN of a role, such as arn:aws:iam::123456789012:role/hourgate-secrets",
		},
		{
			"external id without a role",
			secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{SecretID: arn, ExternalID: "x"}},
			"aws_secrets_manager.external_id: has no meaning without assume_role",
		},
		{"iam", secrets.Config{RDSIAM: &secrets.RDSIAM{Region: "eu-west-1", Username: "hourgate"}}, ""},
		{
			"empty iam",
			secrets.Config{RDSIAM: &secrets.RDSIAM{}},
			"rds_iam.region: required\nrds_iam.username: required, the PostgreSQL user, at most 63 bytes",
		},
		{"vault", secrets.Config{HashiCorpVault: &secrets.HashiCorpVault{Address: "https://vault.test:8200", Path: "orders"}}, ""},
		{
			"vault in plaintext",
			secrets.Config{HashiCorpVault: &secrets.HashiCorpVault{Address: "http://vault.test:8200", Path: "orders"}},
			"hashicorp_vault.address: want https://host:port",
		},
		{
			"empty vault",
			secrets.Config{HashiCorpVault: &secrets.HashiCorpVault{}},
			"hashicorp_vault.address: want https://host:port\nhashicorp_vault.path: required",
		},
		{
			"empty aws",
			secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{}},
			"aws_secrets_manager.secret_id: required (name or ARN)\naws_secrets_manager.region: required, unless secret_id is an ARN",
		},
	}
	for _, tt := range tests {
		got := ""
		if err := tt.c.Validate(); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if _, err := secrets.Open(t.Context(), tt.c); (err == nil) != (tt.want == "") {
			t.Errorf("%s: Open: got %v", tt.name, err)
		}
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret.json")
	source := openSource(t, secrets.Config{File: file})
	if _, err := source.Fetch(t.Context(), secrets.Current); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("no file: got %v", err)
	}
	for _, password := range []string{"one", "two"} { // read afresh each time
		if err := os.WriteFile(file, []byte(document("admin", password)), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := source.Fetch(t.Context(), secrets.Current)
		if err != nil || !got.Equal(cred("admin", password)) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if _, err := source.Fetch(t.Context(), secrets.Previous); !errors.Is(err, secrets.ErrNoStage) {
		t.Errorf("got %v, want ErrNoStage", err)
	}
	if _, err := openSource(t, secrets.Config{File: dir}).Fetch(t.Context(), secrets.Current); err == nil {
		t.Error("a folder: got no error")
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openSource(t, secrets.Config{File: fifo}).Fetch(t.Context(), secrets.Current); err == nil {
		t.Error("a FIFO: got no error")
	}
	if got, want := source.String(), "file "+file; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEnv(t *testing.T) {
	source := envSource(t, document("admin", "p"))
	os.Unsetenv("HOURGATE_TEST_SECRET")
	_, err := source.Fetch(t.Context(), secrets.Current)
	if got, want := fmt.Sprint(err), "environment variable HOURGATE_TEST_SECRET is not set"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := source.Fetch(t.Context(), secrets.Pending); !errors.Is(err, secrets.ErrNoStage) {
		t.Errorf("got %v, want ErrNoStage", err)
	}
}

func TestCommand(t *testing.T) {
	shell := func(script string) secrets.Source {
		return openSource(t, secrets.Config{Command: []string{"sh", "-c", script, canary}})
	}
	got, err := shell(`echo a warning >&2; printf '{"username":"admin","password":"p"}'`).Fetch(t.Context(), secrets.Current)
	if err != nil || !got.Equal(cred("admin", "p")) {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err = openSource(t, secrets.Config{Command: []string{"printf", `{"username":"$HOME","password":"*"}`}}).Fetch(t.Context(), secrets.Current)
	if err != nil || !got.Equal(cred("$HOME", "*")) {
		t.Errorf("a shell was there: got %+v, %v", got, err)
	}
	for name, tt := range map[string]struct{ script, want string }{
		"fails":        {`printf %s "$0"; printf '\nlogin first\r\033[2K\nmore\n' >&2; exit 3`, `running command sh: exit status 3: "login first\r\x1b[2K"`},
		"fails dumbly": {`printf %s "$0"; exit 4`, `running command sh: exit status 4`},
		"malformed":    {`printf %s "$0"`, `output of command sh: malformed secret: not a JSON object such as {"username": "…", "password": "…"}`},
		"too long":     {`head -c 10000000 /dev/zero`, `output of command sh: malformed secret: longer than 65536 bytes`},
		"silent":       {`:`, `output of command sh: malformed secret: empty`},
	} {
		_, err := shell(tt.script).Fetch(t.Context(), secrets.Current)
		if diff := cmp.Diff(tt.want, fmt.Sprint(err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if leaks(fmt.Sprint(err)) {
			t.Errorf("%s: the error leaks: %v", name, err)
		}
	}
	if _, err := openSource(t, secrets.Config{Command: []string{"no-such-program"}}).Fetch(t.Context(), secrets.Current); err == nil {
		t.Error("no such program: got no error")
	}
	if _, err := shell(":").Fetch(t.Context(), secrets.Pending); !errors.Is(err, secrets.ErrNoStage) {
		t.Errorf("got %v, want ErrNoStage", err)
	}
}

func TestCommandEndsWithItsChildren(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	alive, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0) // ends when the last process that writes to it does
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	source := openSource(t, secrets.Config{Command: []string{"sh", "-c", `exec 3>"$0"; sleep 600 & echo started >&3; wait`, fifo}})
	if _, err := source.Fetch(ctx, secrets.Current); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	alive.SetReadDeadline(time.Now().Add(5 * time.Second))
	if got, err := io.ReadAll(alive); string(got) != "started\n" || err != nil {
		t.Errorf("its child lives on: got %q, %v", got, err)
	}
}
