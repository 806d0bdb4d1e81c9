package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/internal/wholefile"
	"github.com/hourgate/hourgate/policy"
)

// LoadConfig reads and checks a configuration. The error is strictyaml.Problems with all that is wrong in it; what could
// be read is returned with it.
func LoadConfig(file string) (Config, error) {
	data, err := wholefile.Content(file)
	if err != nil {
		return defaultConfig(), strictyaml.Problems{unreadableConfig(file, err)}
	}
	return parseConfig(file, data)
}

func unreadableConfig(file string, err error) strictyaml.Problem {
	if errors.Is(err, fs.ErrNotExist) {
		return strictyaml.Problem{File: file, Message: "there is no such configuration file", Suggestion: "--config FILE says where it is"}
	}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return strictyaml.Problem{File: file, Message: fmt.Sprintf("cannot be read: %v", err)}
}

// parseConfig is LoadConfig for a file that was read already.
func parseConfig(file string, data []byte) (Config, error) {
	cfg := defaultConfig()
	cfg.file = file
	doc, err := strictyaml.Decode(file, data, &cfg)
	var problems strictyaml.Problems
	errors.As(err, &problems)
	if doc == nil {
		return cfg, problems
	}
	for i := range cfg.Integrations {
		cfg.Integrations[i].setDefaults()
	}
	if cfg.State != nil && cfg.State.Postgres != nil {
		cfg.State.Postgres.setDefaults()
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

// Load reads the configuration, the policy and the certificates that it names. Its error has what is wrong in any of
// them, all at once.
func Load(file string) (Config, *policy.Set, error) {
	before, _ := fingerprintOf([]string{file})
	cfg, err := LoadConfig(file)
	if len(cfg.Integrations)+len(cfg.Discovery) == 0 { // no sense in looking for them in the policy
		return cfg, nil, err
	}
	var problems, more strictyaml.Problems
	errors.As(err, &problems)
	problems = append(problems, cfg.fileProblems()...)
	cfg.seen, _ = cfg.fingerprints() // what can't be read is a problem below
	cfg.seen.config = before
	set, err := cfg.loadPolicy()
	errors.As(err, &more)
	return cfg, set, append(problems, more...).Err()
}

// fileProblems opens the files that the configuration names, but for the policy's.
func (c *Config) fileProblems() strictyaml.Problems {
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
	v.state(c.State)
	for i, integration := range c.Integrations {
		settings := integration.server()
		var found strictyaml.Problems
		if _, err := upstream.New(settings); len(settings.Problems()) == 0 && errors.As(err, &found) {
			v.adopt(fmt.Sprintf("integrations[%d]", i), found)
		}
	}
	return v.problems
}

// resolvePaths makes paths absolute that are relative to the folder of the file.
func (c *Config) resolvePaths(folder string) {
	resolve := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(folder, *path)
		}
	}
	resolve(&c.TLS.CertFile)
	resolve(&c.TLS.KeyFile)
	resolve(&c.TLS.ClientCAFile)
	resolve(&c.Audit.File)
	resolve(&c.Audit.SpoolFolder)
	for i := range c.Policy {
		resolve(&c.Policy[i])
	}
	for i := range c.Discovery {
		d := &c.Discovery[i]
		if d.File != nil {
			resolve(&d.File.Path)
		}
		if a := d.AWSRDS; a != nil && a.Defaults.SSLRootCert != upstream.RootsSystem && a.Defaults.SSLRootCert != upstream.RootsRDS {
			resolve(&a.Defaults.SSLRootCert)
		}
	}
	resolve(&c.AdminSocket)
	for i := range c.Notifications {
		resolve(&c.Notifications[i].URLFile)
		resolve(&c.Notifications[i].SecretFile)
	}
	servers := make([]*Integration, 0, len(c.Integrations)+1)
	for i := range c.Integrations {
		servers = append(servers, &c.Integrations[i])
	}
	if c.State != nil {
		resolve(&c.State.File)
		if c.State.Postgres != nil {
			servers = append(servers, c.State.Postgres)
		}
	}
	for _, in := range servers {
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
func (c *Config) loadPolicy() (*policy.Set, error) {
	c.reading = policy.Read(c.Policy, c.databases(), c.known())
	set, err := c.reading.Set()
	var problems strictyaml.Problems
	if errors.As(err, &problems) && c.doc != nil {
		return set, c.placed(problems).Err()
	}
	return set, err
}

// placed gives problems with a path of policy as a whole the place where the configuration names it.
func (c *Config) placed(problems strictyaml.Problems) strictyaml.Problems {
	placed := slices.Clone(problems)
	for i, p := range placed {
		if at := slices.Index(c.Policy, p.File); at >= 0 && p.Line == 0 {
			placed[i] = c.doc.Problem(fmt.Sprintf("policy[%d]", at), p.File+": "+p.Message)
		}
	}
	return placed
}
