package first

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/upstream"
)

// Options are what Run has to know. What is "" is asked for, or gets the default that is said here.
type Options struct {
	Folder string // where the files go; required

	Name        string // the integration; default: the database
	Host        string // required
	Port        uint16 // default 5432
	Database    string // required
	SSLMode     upstream.SSLMode
	SSLRootCert string // a file, "rds" or "system"

	AdminUser   string // default "hourgate"
	DBAUser     string // who looks at the server and may run the SQL; "": nobody looks
	DBAPassword string
	Major       int      // of the server; needed if nobody looks
	Owners      []string // of the objects; needed if nobody looks
	NewOwner    string   // gets the objects whose owner can't be granted
	Apply       bool     // run the SQL

	Listen    string
	OpsListen string
	GateHost  string // the name in the certificate; default "localhost"
	Trail     string // the trail's file; default in the folder, below /var/lib/hourgate for /etc/hourgate

	User         string // the first person; required
	UserPassword string // "": one is made up
	Access       string // default "READ_ONLY"
	For          time.Duration
}

// system is where the Debian package and the container image expect the configuration; the trail goes beside it.
const (
	systemFolder = "/etc/hourgate"
	systemTrail  = "/var/lib/hourgate/trail.jsonl"
)

// complete asks for what is missing and fills in defaults.
func (o *Options) complete(ask *Asker) error {
	var errs []error
	text := func(value *string, flag, question, otherwise string) {
		if *value != "" {
			return
		}
		answer, err := ask.text(flag, question, otherwise)
		*value = answer
		errs = append(errs, err)
	}
	text(&o.Host, "--host", "The PostgreSQL server's host name", "")
	if o.Port == 0 {
		o.Port = 5432
	}
	text(&o.Database, "--database", "The database that people want to get into", "")
	text(&o.Name, "--name", "What people and policies call it", o.Database)
	text((*string)(&o.SSLMode), "--ssl-mode", "TLS to the server: verify-full, verify-ca, require or disable", string(upstream.VerifyFull))
	if o.SSLMode.Verifies() {
		text(&o.SSLRootCert, "--ssl-root-cert", "The authority of its certificate: a file, rds or system", defaultRoots(o.Host))
	}
	text(&o.AdminUser, "--admin-user", "The user that Hourgate is to have on it", "hourgate")
	if o.Major == 0 && o.DBAUser == "" {
		text(&o.DBAUser, "--dba-user", "A DBA's user, to look at the server (its password comes next, or from PGPASSWORD)", "")
	}
	text(&o.GateHost, "--gate-host", "The name that people will connect to", "localhost")
	text(&o.User, "--user", "The first person who gets in, such as an e-mail address", "")
	text(&o.Access, "--access", "What they may do: READ_ONLY, READ_WRITE or ADMIN", "READ_ONLY")
	o.defaults()
	return errors.Join(append(errs, o.validate())...)
}

func (o *Options) defaults() {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:6432"
	}
	if o.OpsListen == "" {
		o.OpsListen = "127.0.0.1:9187"
	}
	if o.For == 0 {
		o.For = 8 * time.Hour
	}
	if o.Trail == "" {
		o.Trail = "trail.jsonl"
		if absolute, err := filepath.Abs(o.Folder); err == nil && absolute == systemFolder {
			o.Trail = systemTrail
		}
	}
}

func defaultRoots(host string) string {
	if strings.HasSuffix(host, ".rds.amazonaws.com") {
		return upstream.RootsRDS
	}
	return ""
}

// levels are those of access that init knows; the policy knows more kinds.
var levels = []string{"READ_ONLY", "READ_WRITE", "ADMIN"}

// validate finds what can't be written into the files. The rest is found by reading them again.
func (o *Options) validate() error {
	var errs []error
	for _, value := range []string{o.Host, o.Database, o.Name, o.AdminUser, o.DBAUser, o.User, o.GateHost, o.Trail, o.SSLRootCert, o.NewOwner} {
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			errs = append(errs, fmt.Errorf("%q has control characters", value))
		}
	}
	if !slices.Contains(levels, o.Access) {
		errs = append(errs, fmt.Errorf("--access: want %s, got %q", strings.Join(levels, ", "), o.Access))
	}
	if err := new(upstream.SSLMode).UnmarshalText([]byte(o.SSLMode)); err != nil {
		errs = append(errs, fmt.Errorf("--ssl-mode: %w", err))
	}
	if regexp.MustCompile(`^(hg_|hourgate_|pg_)`).MatchString(o.AdminUser) {
		errs = append(errs, fmt.Errorf("--admin-user: names like %q are for roles that Hourgate or PostgreSQL makes", o.AdminUser))
	}
	if o.For < time.Minute || o.For > 30*24*time.Hour {
		errs = append(errs, fmt.Errorf("--for: want 1m to 720h, got %s", o.For))
	}
	if o.SSLRootCert != "" && o.SSLRootCert != upstream.RootsRDS && o.SSLRootCert != upstream.RootsSystem {
		if _, err := os.Stat(o.SSLRootCert); err != nil {
			errs = append(errs, fmt.Errorf("--ssl-root-cert: %w", err))
		}
	}
	if o.DBAUser == "" && o.Major == 0 {
		errs = append(errs, errors.New("--dba-user or --server-version is required: the SQL for the admin depends on the server"))
	}
	if o.Apply && o.DBAUser == "" {
		errs = append(errs, errors.New("--apply needs --dba-user"))
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		errs = append(errs, fmt.Errorf("--listen: want host:port, got %q", o.Listen))
	}
	return errors.Join(errs...)
}

// server is how the guarded server is reached.
func (o *Options) server() upstream.Config {
	return upstream.Config{Host: o.Host, Port: o.Port, SSLMode: o.SSLMode, RootCert: o.SSLRootCert}
}
