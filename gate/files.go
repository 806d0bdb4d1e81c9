package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// secretFiles warns of files and variables that a secret names and that are not there. They may come later, so that they
// keep no gate from starting.
func (v *validation) secretFiles(path string, i *Integration) {
	s := i.Secret
	v.exists(path+".secret.file", s.File)
	if vault := s.HashiCorpVault; vault != nil {
		v.exists(path+".secret.hashicorp_vault.token_file", vault.TokenFile)
		v.exists(path+".secret.hashicorp_vault.ca_file", vault.CAFile)
	}
	if s.Env != "" && os.Getenv(s.Env) == "" {
		v.warn(path+".secret.env", "the environment variable %s is not set here; it has to be where the gate runs", s.Env)
	}
	if len(s.Command) > 0 && s.Command[0] != "" {
		if _, err := exec.LookPath(s.Command[0]); err != nil {
			v.warn(path+".secret.command", "there is no program %s that can be run", s.Command[0])
		}
	}
}

// exists warns of a file that is not there or can't be read.
func (v *validation) exists(path, file string) {
	if file == "" {
		return
	}
	switch _, err := os.Stat(file); {
	case errors.Is(err, fs.ErrNotExist):
		v.warn(path, "there is no file %s", file)
	case err != nil:
		v.warn(path, "cannot be read: %v", err)
	}
}

// permissions warns of files that others can read or write.
func (v *validation) permissions(c *Config) {
	v.writable("", c.file)
	v.secret("tls.key_file", c.TLS.KeyFile)
	v.writable("tls.cert_file", c.TLS.CertFile)
	v.writable("tls.client_ca_file", c.TLS.ClientCAFile)
	v.secret("audit.file", c.Audit.File)
	for i, path := range c.Policy {
		at := fmt.Sprintf("policy[%d]", i)
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() {
			v.secret(at, path)
			continue
		}
		v.writable(at, path)
		for _, pattern := range []string{"*.yaml", "*.yml"} {
			files, _ := filepath.Glob(filepath.Join(path, pattern)) // the pattern is a good one
			for _, file := range files {
				v.secret(at, file)
			}
		}
	}
	for i := range c.Integrations {
		in := &c.Integrations[i]
		at := fmt.Sprintf("integrations[%d]", i)
		v.secret(at+".secret.file", in.Secret.File)
		v.secret(at+".ssl_key", in.SSLKey)
		if vault := in.Secret.HashiCorpVault; vault != nil {
			v.secret(at+".secret.hashicorp_vault.token_file", vault.TokenFile)
		}
		if !slices.Contains([]string{"", "rds", "system"}, in.SSLRootCert) {
			v.writable(at+".ssl_root_cert", in.SSLRootCert)
		}
	}
}

// secret warns of a file that others than its owner and group can read, or others than its owner can write. A policy is one:
// it holds verifiers, at which passwords can be guessed.
func (v *validation) secret(path, file string) {
	info, err := os.Stat(file)
	if file == "" || err != nil {
		return
	}
	if mode := info.Mode().Perm(); mode&0o004 != 0 {
		v.mend(path, fmt.Sprintf("chmod o-rwx %s", file), "everybody on this machine can read %s (mode %04o)", file, mode)
	}
	v.writable(path, file)
}

// writable warns of a file that others than its owner can write: they could let themselves in.
func (v *validation) writable(path, file string) {
	info, err := os.Stat(file)
	if file == "" || err != nil {
		return
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		v.mend(path, fmt.Sprintf("chmod go-w %s", file), "others than its owner can write %s (mode %04o)", file, mode)
	}
}

func (v *validation) warn(path, format string, args ...any) { v.mend(path, "", format, args...) }

// mend adds a warning with what takes it away.
func (v *validation) mend(path, suggestion, format string, args ...any) {
	if v.doc.Sound(path) {
		p := v.doc.Problem(path, fmt.Sprintf(format, args...))
		p.Suggestion = suggestion
		v.warnings = append(v.warnings, p)
	}
}

// Warnings are what is no mistake in the configuration and its files, and yet dangerous or probably not meant, such as a
// secret that everybody can read.
func (c *Config) Warnings() strictyaml.Problems {
	if c.doc == nil {
		return nil
	}
	v := validation{doc: c.doc}
	v.permissions(c)
	v.room(c)
	for i := range c.Integrations {
		v.secretFiles(fmt.Sprintf("integrations[%d]", i), &c.Integrations[i])
	}
	return v.warnings
}
