package discover

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/strictyaml"
	"github.com/hourgate/hourgate/internal/upstream"
)

// Config is one entry of the configuration's discovery. Exactly one field must be set.
type Config struct {
	AWSRDS *AWSRDS `yaml:"aws_rds"`
	File   *File   `yaml:"file"`
}

// AWSRDS finds DB instances and clusters of Amazon RDS in one account. AWS credentials come from the SDK's ordinary chain.
type AWSRDS struct {
	Regions []string `yaml:"regions"` // required: at least one

	// AssumeRole is the ARN of a role of the account to look at, and ExternalID what its trust policy asks for. Without a
	// role it is the gate's own account. Secrets are fetched with the same role.
	AssumeRole string `yaml:"assume_role"`
	ExternalID string `yaml:"external_id"`

	// Tags must all be there. A value may be a pattern, in which * stands for any text and ? for one character.
	Tags map[string]string `yaml:"tags"`

	// Name and Labels are templates: {tag:KEY}, {identifier}, {account}, {region} and {engine} are filled in. Name is the
	// identifier where it is "" and where the server lacks one of its tags; a label then is not there.
	Name   string            `yaml:"name"`
	Labels map[string]string `yaml:"labels"`

	Secret Secret `yaml:"secret"`
	// AllowMasterSecret takes the secret that RDS manages for the master user where no tag and no name gives another.
	AllowMasterSecret bool `yaml:"allow_master_secret"`

	// Reader offers the readers of clusters and the read replicas of instances.
	Reader bool `yaml:"reader"`

	Defaults Defaults `yaml:"defaults"`

	// Interval is the mean time between two looks; each is drawn from ±10 % around it. Default: 5 minutes.
	Interval time.Duration `yaml:"interval"`

	// Dial sends connections elsewhere than to the endpoint: through a tunnel, or to a test's server. A key is a pattern for
	// a host name or for host:port, a value is the host:port to dial. The certificate is still checked for the endpoint's
	// own name.
	Dial map[string]string `yaml:"dial"`
}

// Secret says where the admin's secret of a server is, in AWS Secrets Manager. What comes first in this list counts: the
// tag, the tag apono-secret, the name, the secret that RDS manages.
type Secret struct {
	Tag        string `yaml:"tag"`         // the tag with the secret's name or ARN. Default: hourgate-secret
	Name       string `yaml:"name"`        // a template of the secret's name, as for AWSRDS.Name
	RDSManaged bool   `yaml:"rds_managed"` // the master's secret and no other; needs AllowMasterSecret
}

// Defaults is how the servers are connected to.
type Defaults struct {
	Database       string                  `yaml:"database"`        // default: postgres
	SSLMode        upstream.SSLMode        `yaml:"ssl_mode"`        // default: verify-full
	SSLRootCert    string                  `yaml:"ssl_root_cert"`   // default: rds; for disable and allow, prefer, require: none
	SSLNegotiation upstream.SSLNegotiation `yaml:"ssl_negotiation"` // default: postgres
}

// File finds what another program has written into a file: a list, in YAML or JSON, of entries such as those of the
// configuration's integrations. It is read again when it changes.
type File struct {
	Path string `yaml:"path"` // required
	// Interval is how often the file is looked at where its file system doesn't tell of changes. Default: 30 seconds.
	Interval time.Duration `yaml:"interval"`
}

const (
	defaultInterval     = 5 * time.Minute
	defaultFileInterval = 30 * time.Second
	minInterval         = time.Second

	defaultSecretTag = "hourgate-secret"
	aponoSecretTag   = "apono-secret"
)

// WithDefaults returns the entry with what is left out filled in.
func (c Config) WithDefaults() Config {
	if c.AWSRDS != nil {
		a := *c.AWSRDS
		a.Interval = cmp.Or(a.Interval, defaultInterval)
		a.Secret.Tag = cmp.Or(a.Secret.Tag, defaultSecretTag)
		a.Defaults = a.Defaults.filled()
		c.AWSRDS = &a
	}
	if c.File != nil {
		f := *c.File
		f.Interval = cmp.Or(f.Interval, defaultFileInterval)
		c.File = &f
	}
	return c
}

func (d Defaults) filled() Defaults {
	d.Database = cmp.Or(d.Database, "postgres")
	d.SSLMode = cmp.Or(d.SSLMode, upstream.VerifyFull)
	d.SSLNegotiation = cmp.Or(d.SSLNegotiation, upstream.Postgres)
	if d.SSLMode.Verifies() {
		d.SSLRootCert = cmp.Or(d.SSLRootCert, upstream.RootsRDS)
	}
	return d
}

// Problems returns everything that is wrong with an entry. Paths are below the entry, such as aws_rds.regions[0].
func (c Config) Problems() strictyaml.Problems {
	p := &problems{}
	switch {
	case (c.AWSRDS == nil) == (c.File == nil):
		p.report("", "exactly one of aws_rds and file is required")
	case c.AWSRDS != nil:
		c.WithDefaults().AWSRDS.check(p)
	default:
		p.when(c.File.Path == "", "file.path", "required: the file with the list of servers")
		p.interval("file.interval", c.WithDefaults().File.Interval)
	}
	return p.found
}

type problems struct{ found strictyaml.Problems }

func (p *problems) report(path, format string, args ...any) {
	p.found = append(p.found, strictyaml.Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (p *problems) when(wrong bool, path, message string) {
	if wrong {
		p.report(path, "%s", message)
	}
}

func (p *problems) interval(path string, d time.Duration) {
	p.when(d < minInterval, path, "want at least 1s")
}

var (
	// A region's name becomes part of the host name that is asked, also one that a tag's ARN says.
	regionName = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]{1,2}$`)
	roleARN    = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$`)
)

func (a *AWSRDS) check(p *problems) {
	p.when(len(a.Regions) == 0, "aws_rds.regions", "required: the regions to look at")
	for i, region := range a.Regions {
		path := fmt.Sprintf("aws_rds.regions[%d]", i)
		p.when(!regionName.MatchString(region), path, "is not the name of a region, such as eu-west-1")
		p.when(slices.Contains(a.Regions[:i], region), path, "is there already")
	}
	p.when(a.AssumeRole != "" && !roleARN.MatchString(a.AssumeRole), "aws_rds.assume_role", "want the ARN of a role, such as arn:aws:iam::123456789012:role/hourgate-discovery")
	p.when(a.ExternalID != "" && a.AssumeRole == "", "aws_rds.external_id", "has no meaning without assume_role")
	p.when(len(a.Tags) == 0, "aws_rds.tags", `required: the tags that a server must have, such as {hourgate: "true"}`)
	p.interval("aws_rds.interval", a.Interval)
	p.template("aws_rds.name", a.Name)
	p.template("aws_rds.secret.name", a.Secret.Name)
	for _, key := range slices.Sorted(maps.Keys(a.Labels)) {
		p.template("aws_rds.labels."+key, a.Labels[key])
	}
	p.when(a.Secret.RDSManaged && !a.AllowMasterSecret, "aws_rds.secret.rds_managed",
		"is the master user's secret, who may do everything on the server: say allow_master_secret: true beside secret if that is meant")
	p.when(a.Secret.RDSManaged && a.Secret.Name != "", "aws_rds.secret.name", "has no meaning with rds_managed")
	for _, problem := range (upstream.Config{SSLMode: a.Defaults.SSLMode, SSLNegotiation: a.Defaults.SSLNegotiation, RootCert: a.Defaults.SSLRootCert}).Problems() {
		p.report("aws_rds.defaults."+problem.Path, "%s", problem.Message)
	}
	for _, endpoint := range slices.Sorted(maps.Keys(a.Dial)) {
		if _, err := parseServer(a.Dial[endpoint]); err != nil {
			p.report("aws_rds.dial["+strconv.Quote(endpoint)+"]", "%v", err)
		}
	}
}

func (p *problems) template(path, text string) {
	if _, err := parseTemplate(text); err != nil {
		p.report(path, "%v", err)
	}
}

// Server is where a server is reached.
type Server struct {
	Host string // to dial
	Port uint16
	// Name is what the server's certificate must have, where that is not Host. "" is Host.
	Name string
}

// String is host:port.
func (s Server) String() string { return net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port))) }

func parseServer(address string) (Server, error) {
	host, text, err := net.SplitHostPort(address)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if err != nil || portErr != nil || port == 0 || host == "" {
		return Server{}, fmt.Errorf("want host:port, such as 127.0.0.1:5432, got %q", address)
	}
	return Server{Host: host, Port: uint16(port)}, nil
}

// redirect applies AWSRDS.Dial: an exact host:port or host goes before a pattern, a longer pattern before a shorter one.
func (a *AWSRDS) redirect(s Server) Server {
	var best string
	for _, pattern := range slices.Sorted(maps.Keys(a.Dial)) {
		if !matches(pattern, s.String()) && !matches(pattern, s.Host) {
			continue
		}
		exact := pattern == s.String() || pattern == s.Host
		if best == "" || exact && strings.ContainsAny(best, "*?") || len(pattern) > len(best) && exact == !strings.ContainsAny(best, "*?") {
			best = pattern
		}
	}
	if best == "" {
		return s
	}
	to, err := parseServer(a.Dial[best])
	if err != nil { // check has said so
		return s
	}
	to.Name = s.Host
	return to
}
