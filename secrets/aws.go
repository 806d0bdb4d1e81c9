package secrets

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

const (
	awsAttemptTimeout = 5 * time.Second  // one HTTP request
	awsTimeout        = 15 * time.Second // one fetch: finding AWS credentials, up to three requests, their back-off
)

type awsSource struct {
	client *secretsmanager.Client
	id     string
	region string
}

// awsClients are the clients of Secrets Manager, by region and role.
type awsClients struct {
	mu      sync.Mutex
	clients map[awsIdentity]*secretsmanager.Client
}

type awsIdentity struct{ region, role, externalID string }

func (a *awsClients) open(ctx context.Context, c *AWSSecretsManager) (Source, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := awsIdentity{c.region(), c.AssumeRole, c.ExternalID}
	if a.clients[key] == nil {
		client, err := newAWSClient(ctx, c)
		if err != nil {
			return nil, err
		}
		if a.clients == nil {
			a.clients = make(map[awsIdentity]*secretsmanager.Client)
		}
		a.clients[key] = client
	}
	return &awsSource{client: a.clients[key], id: c.SecretID, region: c.region()}, nil
}

func newAWSClient(ctx context.Context, c *AWSSecretsManager) (*secretsmanager.Client, error) {
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(c.region()),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(awsAttemptTimeout)),
	)
	if err != nil {
		return nil, fmt.Errorf("loading AWS configuration: %w", err)
	}
	if c.AssumeRole != "" {
		cfg.Credentials = assumed(cfg, c)
	}
	return secretsmanager.NewFromConfig(cfg), nil
}

// assumed are the credentials of a role, fetched when they are needed and kept until they end.
func assumed(cfg aws.Config, c *AWSSecretsManager) aws.CredentialsProvider {
	role := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), c.AssumeRole, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = "hourgate-secrets"
		if c.ExternalID != "" {
			o.ExternalID = aws.String(c.ExternalID)
		}
	})
	return aws.NewCredentialsCache(role, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 5 * time.Minute })
}

func (s *awsSource) String() string {
	return fmt.Sprintf("AWS secret %s in %s", s.id, s.region)
}

func (s *awsSource) Fetch(ctx context.Context, stage Stage) (Credential, error) {
	label, ok := map[Stage]string{Current: "AWSCURRENT", Pending: "AWSPENDING", Previous: "AWSPREVIOUS"}[stage]
	if !ok {
		return Credential{}, ErrNoStage
	}
	ctx, cancel := context.WithTimeoutCause(ctx, awsTimeout, fmt.Errorf("no answer within %v", awsTimeout))
	defer cancel()
	out, err := s.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{
		SecretId:     aws.String(s.id),
		VersionStage: aws.String(label),
	})
	if err != nil {
		return Credential{}, fmt.Errorf("fetching %s (%s): %w", s, label, explain(ctx, err, stage))
	}
	doc := out.SecretBinary
	if out.SecretString != nil {
		doc = []byte(*out.SecretString)
	}
	cred, err := parse(doc)
	if err != nil {
		return Credential{}, fmt.Errorf("%s (%s): %w", s, label, err)
	}
	return cred, nil
}

// advice says what to do about an error code of Secrets Manager.
var advice = map[string]string{
	"ResourceNotFoundException":   "no secret of this name in this region and account: check secret_id and region; in another account it needs the full ARN",
	"AccessDeniedException":       "allow the proxy's AWS identity secretsmanager:GetSecretValue on the secret and kms:Decrypt on its key",
	"DecryptionFailure":           "the secret's KMS key can't be used: check that it is enabled and that the proxy's AWS identity has kms:Decrypt on it",
	"InvalidRequestException":     "the secret may be marked for deletion: restore it",
	"ThrottlingException":         "too many requests in this AWS account: it is tried again later",
	"UnrecognizedClientException": "the AWS credentials are not valid: check what the proxy's environment, profile or instance role gives it",
	"ExpiredTokenException":       "the AWS credentials have expired: renew them, or give the proxy a role",
	"InvalidSignatureException":   "the AWS credentials are wrong, or this machine's clock is",
}

// explain turns an error of the SDK into one that says what to do. Only texts that can't hold any of an answer's body
// are passed on: the SDK's decoding errors may quote it, and the body is the secret.
func explain(ctx context.Context, err error, stage Stage) error {
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() != "" {
		if api.ErrorCode() == "ResourceNotFoundException" && stage != Current {
			return ErrNoStage
		}
		if todo, ok := advice[api.ErrorCode()]; ok {
			return fmt.Errorf("%s: %s (AWS says: %.300s)", api.ErrorCode(), todo, api.ErrorMessage())
		}
		return fmt.Errorf("%s: %.300s", api.ErrorCode(), api.ErrorMessage())
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var (
		answer   *smithyhttp.ResponseError
		decoding *smithy.DeserializationError
	)
	if errors.As(err, &answer) {
		return fmt.Errorf("unreadable answer with HTTP status %d", answer.HTTPStatusCode())
	}
	if errors.As(err, &decoding) {
		return errors.New("unreadable answer")
	}
	return err // it was never answered: no credentials, no route, no TLS
}
