package first

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hourgate/hourgate/internal/devca"
	"github.com/hourgate/hourgate/internal/verifier"
)

// certificateLife is how long the certificate of one's own is good. It is for trying out: for others to connect, put one of
// your own authority in its place.
const certificateLife = 90 * 24 * time.Hour

// names are the files that are written.
var names = []string{"config.yaml", "policy.yaml", "secret.json", "ca.crt", "server.crt", "server.key", "setup.sql"}

// taken is an error if one of the files is there already.
func taken(folder string) error {
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(folder, name)); err == nil {
			return fmt.Errorf("%s exists; nothing was changed: name another --folder, or move it away", filepath.Join(folder, name))
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// files are what goes into the folder.
type files struct {
	options       *Options
	adminPassword string
	userPassword  string
	userVerifier  verifier.Verifier
	until         time.Time
	sql           string
}

// newFiles makes passwords where none were given. They are letters and digits, which need no quotes anywhere.
func newFiles(o *Options, now time.Time) (*files, error) {
	f := &files{options: o, adminPassword: strings.ToLower(rand.Text()), userPassword: o.UserPassword}
	if f.userPassword == "" {
		f.userPassword = strings.ToLower(rand.Text())
	}
	v, err := verifier.New(f.userPassword, verifier.DefaultIterations)
	if err != nil {
		return nil, fmt.Errorf("the person's password: %w", err)
	}
	f.userVerifier = v
	f.until = now.Add(o.For).UTC().Truncate(time.Second)
	return f, nil
}

// write writes all files. After an error none of them is there.
func (f *files) write() (err error) {
	folder := f.options.Folder
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	if err := taken(folder); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.remove())
		}
	}()
	authority, err := devca.New("Hourgate's own authority, made by hourgate init", folder, certificateLife)
	if err != nil {
		return fmt.Errorf("making the authority: %w", err)
	}
	hosts := []string{f.options.GateHost}
	if f.options.GateHost != "localhost" {
		hosts = append(hosts, "localhost")
	}
	if err := authority.Issue(folder, append(hosts, "127.0.0.1")...); err != nil {
		return fmt.Errorf("making the gate's certificate: %w", err)
	}
	secret, err := json.Marshal(map[string]string{"username": f.options.AdminUser, "password": f.adminPassword})
	if err != nil {
		return err
	}
	config, err := f.config()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"config.yaml": config, "policy.yaml": f.policy(), "secret.json": string(secret) + "\n", "setup.sql": f.sql,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return f.share()
}

// share lets the folder's group read the files, where the folder has a group that is not the writer's own: the Debian
// package makes /etc/hourgate for root to write and for the gate's user to read.
func (f *files) share() error {
	info, err := os.Stat(f.options.Folder)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Gid) == os.Getgid() || info.Mode()&0o050 != 0o050 {
		return nil
	}
	for _, name := range names {
		file := filepath.Join(f.options.Folder, name)
		if err := errors.Join(os.Chown(file, -1, int(owner.Gid)), os.Chmod(file, 0o640)); err != nil { //nolint:gosec // for the gate's group
			return err
		}
	}
	return nil
}

func (f *files) remove() error {
	var errs []error
	for _, name := range names {
		if err := os.Remove(filepath.Join(f.options.Folder, name)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// config is config.yaml.
func (f *files) config() (string, error) {
	o := f.options
	roots := o.SSLRootCert
	if roots != "" && roots != "rds" && roots != "system" {
		absolute, err := filepath.Abs(roots)
		if err != nil {
			return "", err
		}
		roots = absolute
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Written by hourgate init. config.example.yaml explains every key.
listen: %s
ops_listen: %s
# A certificate of an authority of its own, for trying out: ca.crt is what clients need. Put one of your own in its place.
tls: {cert_file: server.crt, key_file: server.key}
policy: [policy.yaml]
audit: {file: %s}
integrations:
  - name: %s
    hostname: %s
    port: %d
    database: %s
    ssl_mode: %s
`, text(o.Listen), text(o.OpsListen), text(o.Trail), text(o.Name), text(o.Host), o.Port, text(o.Database), o.SSLMode)
	if roots != "" {
		fmt.Fprintf(&b, "    ssl_root_cert: %s\n", text(roots))
	}
	b.WriteString("    # In earnest: aws_secrets_manager, hashicorp_vault or another of the stores in config.example.yaml.\n    secret: {file: secret.json}\n")
	return b.String(), nil
}

// policy is policy.yaml.
func (f *files) policy() string {
	o := f.options
	return fmt.Sprintf(`# Written by hourgate init. policy.example.yaml explains every key. The gate sees when this file changes.
users:
  - name: %s
    scram: %q # hourgate passwd makes another
grants:
  - name: first
    users: [%s]
    integration: %s
    access: %s
    until: %s
    reason: the first session
`, text(o.User), f.userVerifier.Encode(), text(o.User), text(o.Name), o.Access, f.until.Format(time.RFC3339))
}

// text is a value as YAML has it between double quotes. JSON's strings are YAML's, too.
func text(value string) string {
	quoted, err := json.Marshal(value)
	if err != nil { // a string always can be
		panic(err)
	}
	return string(quoted)
}

// psql is the line to connect with.
func (f *files) psql() string {
	host, port, _ := net.SplitHostPort(f.options.Listen) // validate has looked at it
	if ip := net.ParseIP(host); f.options.GateHost != "" && (ip == nil || ip.IsUnspecified() || ip.IsLoopback()) {
		host = f.options.GateHost
	}
	parameters := []string{"host=" + host, "port=" + port, "user=" + f.options.User, "dbname=" + f.options.Name, "sslmode=verify-full", "sslrootcert=" + filepath.Join(f.options.Folder, "ca.crt")}
	for i, p := range parameters {
		if key, value, _ := strings.Cut(p, "="); strings.ContainsAny(value, ` '\`) {
			parameters[i] = key + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
		}
	}
	return shell("psql", strings.Join(parameters, " "))
}

// shell is a command with its arguments quoted where a shell needs it.
func shell(words ...string) string {
	for i, word := range words {
		switch {
		case strings.ContainsAny(word, "'"+"`$\"\\!"):
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		case word == "" || strings.ContainsAny(word, " ~#&*()[]{};<>?|"):
			words[i] = `"` + word + `"`
		}
	}
	return strings.Join(words, " ")
}
