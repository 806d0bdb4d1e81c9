package discover_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/strictyaml"
)

type document struct {
	Discovery []discover.Config `yaml:"discovery"`
}

// contract is the entry that docs/discovery.md begins with.
const contract = `
discovery:
  - aws_rds:
      regions: [eu-west-1, eu-central-1]
      assume_role: arn:aws:iam::123456789012:role/hourgate-discovery
      tags: {hourgate: "true"}
      name: "{tag:hourgate-name}"
      secret: {tag: hourgate-secret}
      labels: {env: "{tag:env}", team: "{tag:team}"}
      defaults: {database: postgres, ssl_mode: verify-full, ssl_root_cert: rds}
      interval: 5m
`

func TestContract(t *testing.T) {
	t.Parallel()
	var d document
	if _, err := strictyaml.Decode("config.yaml", []byte(contract), &d); err != nil {
		t.Fatal(err)
	}
	if problems := d.Discovery[0].Problems(); problems != nil {
		t.Errorf("problems: %v", problems)
	}
	short := `discovery: [{aws_rds: {regions: [eu-west-1, eu-central-1], assume_role: "arn:aws:iam::123456789012:role/hourgate-discovery",
		tags: {hourgate: "true"}, name: "{tag:hourgate-name}", labels: {env: "{tag:env}", team: "{tag:team}"}}}]`
	var s document
	if _, err := strictyaml.Decode("config.yaml", []byte(strings.ReplaceAll(short, "\t", " ")), &s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d.Discovery[0].WithDefaults(), s.Discovery[0].WithDefaults()); diff != "" {
		t.Errorf("the defaults are not those of the contract: %s", diff)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{}`: ": exactly one of aws_rds and file is required",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}}, file: {path: x}}`:                                      ": exactly one",
		`{aws_rds: {tags: {a: b}}}`:                                                                             "aws_rds.regions: required",
		`{aws_rds: {regions: [ireland], tags: {a: b}}}`:                                                         "aws_rds.regions[0]: is not the name of a region",
		`{aws_rds: {regions: [eu-west-1, eu-west-1], tags: {a: b}}}`:                                            "aws_rds.regions[1]: is there already",
		`{aws_rds: {regions: [eu-west-1]}}`:                                                                     "aws_rds.tags: required",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, assume_role: hourgate}}`:                                "aws_rds.assume_role: want the ARN",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, external_id: x}}`:                                       "aws_rds.external_id: has no meaning",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, name: "{tag:}"}}`:                                       "aws_rds.name: {tag:} is unknown",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, name: "{owner}"}}`:                                      "{owner} is unknown: want {tag:KEY}, {identifier}",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, labels: {env: "{tag:env"}}}`:                            "aws_rds.labels.env: a { without its }",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, labels: {env: "tag}"}}}`:                                "aws_rds.labels.env: a } without its {",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, secret: {rds_managed: true}}}`:                          "aws_rds.secret.rds_managed: is the master user's secret",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, defaults: {ssl_mode: require, ssl_root_cert: system}}}`: "aws_rds.defaults.ssl_root_cert: system works with",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, interval: 10ms}}`:                                       "aws_rds.interval: want at least 1s",
		`{aws_rds: {regions: [eu-west-1], tags: {a: b}, dial: {"*": localhost}}}`:                               `aws_rds.dial["*"]: want host:port`,
		`{file: {}}`: "file.path: required",
	} {
		var c discover.Config
		if _, err := strictyaml.Decode("f", []byte(text), &c); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		for _, p := range c.Problems() {
			got = append(got, p.Path+": "+p.Message)
		}
		if len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}
