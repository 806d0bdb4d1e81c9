package secrets

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// RDSIAM is an admin user who is a member of rds_iam and logs in with tokens that the proxy's AWS identity signs for
// itself. A token is valid for 15 minutes, which is longer than the store keeps one.
// See https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html.
type RDSIAM struct {
	Region   string `yaml:"region"`   // required
	Username string `yaml:"username"` // required: the PostgreSQL user

	endpoint string // host:port of the server; see Config.For
}

func (r *RDSIAM) problems() strictyaml.Problems {
	var problems strictyaml.Problems
	if r.Region == "" {
		problems = append(problems, problem("rds_iam.region", "required")...)
	}
	if r.Username == "" || len(r.Username) > maxUsername {
		problems = append(problems, problem("rds_iam.username", fmt.Sprintf("required, the PostgreSQL user, at most %d bytes", maxUsername))...)
	}
	return problems
}

type iamSource struct {
	RDSIAM
	credentials aws.CredentialsProvider
}

func openIAM(ctx context.Context, c *RDSIAM) (Source, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(c.Region))
	if err != nil {
		return nil, fmt.Errorf("loading AWS configuration: %w", err)
	}
	return &iamSource{RDSIAM: *c, credentials: cfg.Credentials}, nil
}

func (s *iamSource) String() string {
	return fmt.Sprintf("IAM token of %s for %s in %s", s.Username, s.endpoint, s.Region)
}

// Fetch signs a token. That asks nobody, once the AWS credentials are there.
func (s *iamSource) Fetch(ctx context.Context, stage Stage) (Credential, error) {
	if stage != Current {
		return Credential{}, ErrNoStage
	}
	ctx, cancel := context.WithTimeoutCause(ctx, awsTimeout, fmt.Errorf("no answer within %v", awsTimeout))
	defer cancel()
	token, err := auth.BuildAuthToken(ctx, s.endpoint, s.Region, s.Username, s.credentials)
	if err != nil {
		return Credential{}, fmt.Errorf("making %s: %w", s, explain(ctx, err, stage))
	}
	return Credential{Username: s.Username, Password: NewPassword(token), Token: true}, nil
}
