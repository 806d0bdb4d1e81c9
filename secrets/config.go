package secrets

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// Config says where a secret comes from. Exactly one field must be set. Whatever the place, it holds the same JSON
// document: {"username": "…", "password": "…"}.
type Config struct {
	AWSSecretsManager *AWSSecretsManager `yaml:"aws_secrets_manager"`

	// RDSIAM logs in with tokens of RDS's IAM authentication instead of a password.
	RDSIAM *RDSIAM `yaml:"rds_iam"`

	HashiCorpVault *HashiCorpVault `yaml:"hashicorp_vault"`

	// File is the path of a file, read at each fetch: a mounted Kubernetes secret, the output of Vault Agent. It may be
	// readable by all, as Kubernetes mounts it by default: within a container that says nothing.
	File string `yaml:"file"`

	// Env is the name of an environment variable, read at each fetch.
	Env string `yaml:"env"`

	// Command is a program with its arguments that prints the document: any other store's command-line client. It runs
	// without a shell, with the proxy's environment, for at most 10 seconds at each fetch.
	Command []string `yaml:"command"`
}

// AWSSecretsManager names a secret in AWS Secrets Manager. AWS credentials come from the SDK's ordinary chain.
type AWSSecretsManager struct {
	Region   string `yaml:"region"`    // required, unless SecretID is an ARN
	SecretID string `yaml:"secret_id"` // required: name or ARN

	// AssumeRole is the ARN of a role to fetch the secret with, and ExternalID what its trust policy asks for. Without a
	// role it is the gate's own identity.
	AssumeRole string `yaml:"assume_role"`
	ExternalID string `yaml:"external_id"`
}

// For returns the configuration for a server's secret: host:port is what tokens are made out to.
func (c Config) For(address string) Config {
	if c.RDSIAM != nil {
		iam := *c.RDSIAM
		iam.endpoint = address
		c.RDSIAM = &iam
	}
	return c
}

// Problems returns what is wrong, each with its key as Path.
func (c Config) Problems() strictyaml.Problems {
	given := c.Places()
	if len(given) != 1 {
		got := "nothing"
		if len(given) > 0 {
			got = strings.Join(given, " and ")
		}
		return problem("", "exactly one of aws_secrets_manager, rds_iam, hashicorp_vault, file, env and command is required, got "+got)
	}
	switch {
	case c.AWSSecretsManager != nil:
		return c.AWSSecretsManager.problems()
	case c.RDSIAM != nil:
		return c.RDSIAM.problems()
	case c.HashiCorpVault != nil:
		return c.HashiCorpVault.problems()
	case c.Command != nil && (len(c.Command) == 0 || c.Command[0] == ""):
		return problem("command", "the first element must name a program")
	case strings.ContainsAny(c.Env, "=\x00"):
		return problem("env", "not the name of an environment variable")
	}
	return nil
}

func problem(path, message string) strictyaml.Problems {
	return strictyaml.Problems{{Path: path, Message: message}}
}

// Validate returns the same as one error; each line starts with the key that it is about.
func (c Config) Validate() error {
	var errs []error
	for _, p := range c.Problems() {
		if p.Path != "" {
			p.Message = p.Path + ": " + p.Message
		}
		errs = append(errs, errors.New(p.Message))
	}
	return errors.Join(errs...)
}

// Places returns the keys of the places that are set: one, in a valid configuration.
func (c Config) Places() []string {
	var given []string
	for _, place := range []struct {
		name string
		set  bool
	}{
		{"aws_secrets_manager", c.AWSSecretsManager != nil},
		{"rds_iam", c.RDSIAM != nil},
		{"hashicorp_vault", c.HashiCorpVault != nil},
		{"file", c.File != ""},
		{"env", c.Env != ""},
		{"command", c.Command != nil},
	} {
		if place.set {
			given = append(given, place.name)
		}
	}
	return given
}

func (a *AWSSecretsManager) problems() strictyaml.Problems {
	var problems strictyaml.Problems
	if a.SecretID == "" {
		problems = append(problems, problem("aws_secrets_manager.secret_id", "required (name or ARN)")...)
	}
	if a.Region == "" && a.region() == "" {
		problems = append(problems, problem("aws_secrets_manager.region", "required, unless secret_id is an ARN")...)
	}
	if of := arnRegion(a.SecretID); of != "" && a.Region != "" && of != a.Region {
		problems = append(problems, problem("aws_secrets_manager.region", fmt.Sprintf("is %s, but the ARN in secret_id is of %s", a.Region, of))...)
	}
	if a.AssumeRole != "" && !roleARN.MatchString(a.AssumeRole) {
		problems = append(problems, problem("aws_secrets_manager.assume_role", "want the ARN of a role, such as arn:aws:iam::123456789012:role/hourgate-secrets")...)
	}
	if a.ExternalID != "" && a.AssumeRole == "" {
		problems = append(problems, problem("aws_secrets_manager.external_id", "has no meaning without assume_role")...)
	}
	return problems
}

var roleARN = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$`)

func (a *AWSSecretsManager) region() string {
	if a.Region != "" {
		return a.Region
	}
	return arnRegion(a.SecretID)
}

// arnRegion returns the region of arn:partition:secretsmanager:region:account:secret:name, or "".
func arnRegion(id string) string {
	parts := strings.Split(id, ":")
	if len(parts) < 7 || parts[0] != "arn" {
		return ""
	}
	return parts[3]
}

// Stage is a version of a secret in the course of its rotation.
type Stage int

// The stages, in the order in which a rejected log-in tries them.
const (
	Current  Stage = iota // what is valid, as far as the store knows
	Pending               // what a rotation is just about to make valid
	Previous              // what was valid before the last rotation
)

// String returns "current", "pending" or "previous".
func (s Stage) String() string {
	switch s {
	case Current:
		return "current"
	case Pending:
		return "pending"
	case Previous:
		return "previous"
	}
	return fmt.Sprintf("stage %d", int(s))
}

// ErrNoStage is returned by Source.Fetch for a stage that the secret does not have. Files, variables and commands have
// only Current.
var ErrNoStage = errors.New("the secret has no such stage")

// Source is a place where a credential is kept. Its methods may be called from several goroutines.
type Source interface {
	// Fetch reads one stage of the credential, each time afresh. It ends with ctx, and within 15 seconds in any case.
	// Errors: ErrNoStage, ErrMalformed, and texts that say what to mend; none holds any of the secret.
	Fetch(ctx context.Context, stage Stage) (Credential, error)

	// String names the source for logs and errors. It holds nothing of the secret.
	String() string
}

// Opener opens sources that share what they need to talk to AWS: connections, and the credentials of roles. The zero value
// is ready. It is safe for concurrent use.
type Opener struct{ aws awsClients }

// Open is Opener.Open for a source that shares nothing.
func Open(ctx context.Context, c Config) (Source, error) { return new(Opener).Open(ctx, c) }

// Open makes the source that a configuration names. It fetches nothing, so a store that is down is no error here; a
// configuration that is not valid, or an AWS profile that can't be read, is.
func (o *Opener) Open(ctx context.Context, c Config) (Source, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	switch {
	case c.AWSSecretsManager != nil:
		return o.aws.open(ctx, c.AWSSecretsManager)
	case c.RDSIAM != nil:
		return openIAM(ctx, c.RDSIAM)
	case c.HashiCorpVault != nil:
		return openVault(c.HashiCorpVault)
	case c.File != "":
		return fileSource(c.File), nil
	case c.Env != "":
		return envSource(c.Env), nil
	default:
		return commandSource(c.Command), nil
	}
}
