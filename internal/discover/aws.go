package discover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

const (
	awsAttemptTimeout = 15 * time.Second // one HTTP request
	awsAttempts       = 8                // of one page, throttled ones included
	awsMaxBackOff     = 10 * time.Second
	pageSize          = 100  // what RDS gives at most
	maxPages          = 1000 // a service that answers for ever must not fill the memory
	regionsAtOnce     = 8    // of one account, so that it isn't asked for everything in the same moment
	sessionName       = "hourgate-discovery"
)

// region is one region of one account. Its clients stay for its life: with their connections, and with what the adaptive
// retryer has learned of the account's limits.
type region struct {
	cfg     *AWSRDS
	place   Place
	client  *rds.Client
	turn    chan struct{} // shared by the regions of an account
	wake    <-chan struct{}
	mu      sync.Mutex
	kinds   map[Kind]*kindState
	resides identities
}

// kindState is the last answer for one kind.
type kindState struct {
	asked     time.Time
	databases []database
}

func newAWSSources(ctx context.Context, c *AWSRDS) ([]source, error) {
	turn := make(chan struct{}, regionsAtOnce)
	var sources []source
	for _, name := range c.Regions {
		cfg, err := awsConfig(ctx, c, name)
		if err != nil {
			return nil, fmt.Errorf("loading AWS configuration: %w", err)
		}
		sources = append(sources, &region{
			cfg: c, client: rds.NewFromConfig(cfg), turn: turn, resides: make(identities),
			place: Place{Source: "aws_rds", Account: accountOf(c.AssumeRole), Region: name},
			kinds: map[Kind]*kindState{Instances: {}, Clusters: {}},
		})
	}
	return sources, nil
}

// awsConfig is for one region, with a retryer of its own and, where a role is assumed, the region's own STS: a region that
// is down takes no other with it.
func awsConfig(ctx context.Context, c *AWSRDS, name string) (aws.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(name),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(awsAttemptTimeout)),
		config.WithRetryer(newRetryer()),
	)
	if err != nil || c.AssumeRole == "" {
		return cfg, err
	}
	role := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), c.AssumeRole, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = sessionName
		if c.ExternalID != "" {
			o.ExternalID = aws.String(c.ExternalID)
		}
	})
	cfg.Credentials = aws.NewCredentialsCache(role, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 5 * time.Minute })
	return cfg, nil
}

// newRetryer makes one retryer for all requests of a client: it slows down when it is throttled.
func newRetryer() func() aws.Retryer {
	adaptive := retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
		o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = awsAttempts, awsMaxBackOff
		})
	})
	return func() aws.Retryer { return adaptive }
}

func (r *region) changed() <-chan struct{} { return r.wake }
func (r *region) pause() time.Duration     { return r.cfg.Interval }
func (r *region) close()                   {}

// poll asks for instances and clusters at the same time; what fails keeps its last answer.
func (r *region) poll(ctx context.Context) answer {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
	}
	var a answer
	var asking sync.WaitGroup
	for kind, ask := range map[Kind]func(context.Context) ([]database, error){Instances: r.instances, Clusters: r.clusters} {
		asking.Go(func() {
			databases, err := ask(ctx)
			err = explain(ctx, err, kind, r.cfg.AssumeRole)
			r.mu.Lock()
			defer r.mu.Unlock()
			state := r.kinds[kind]
			if err == nil {
				if state.take(databases) {
					a.again = confirmPause
				}
			}
			place := r.place
			place.Kind = kind
			a.status = append(a.status, Status{Place: place, Asked: state.asked, Found: len(state.databases), Err: err})
		})
	}
	asking.Wait()
	slices.SortFunc(a.status, func(x, y Status) int { return strings.Compare(string(x.Place.Kind), string(y.Place.Kind)) })
	all := slices.Concat(r.kinds[Instances].databases, r.kinds[Clusters].databases)
	r.resides.identify(all)
	a.found, a.leftOut = assemble(r.cfg, r.place, all)
	return a
}

// take keeps an answer. What is missing from it for the first time stays for another round, marked: the service has
// forgotten servers for a moment before. unsure reports whether there is any.
func (s *kindState) take(now []database) (unsure bool) {
	there, taken := make(map[string]bool, len(now)), make(map[string]bool, len(now))
	for _, d := range now {
		there[d.key()], taken[d.identifier] = true, true
	}
	for _, d := range s.databases {
		// Another one of its identifier stands in its place: it is gone, and its name is free for that.
		if !there[d.key()] && !taken[d.identifier] && !d.missing {
			d.missing, unsure = true, true
			now = append(now, d)
		}
	}
	s.databases, s.asked = now, time.Now()
	return unsure
}

// identities remembers which identity each resource has got.
type identities map[string]string

// identify sets the IDs. RDS never gives a resource id twice; a service that plays RDS may give all instances the same
// one, and these are told apart by when they were made. The first to come keeps the plain id.
func (known identities) identify(all []database) {
	used := make(map[string]bool, len(all))
	current := make(map[string]bool, len(all))
	for k := range all {
		d := &all[k]
		current[d.key()] = true
		if id := known[d.key()]; id != "" {
			d.id, used[id] = id, true
		}
	}
	for k := range all {
		d := &all[k]
		if d.id == "" {
			d.id = strings.Join([]string{d.account, d.region, d.resource}, "/")
			if used[d.id] {
				d.id = d.key()
			}
			known[d.key()], used[d.id] = d.id, true
		}
	}
	maps.DeleteFunc(known, func(key, _ string) bool { return !current[key] })
}

func (r *region) instances(ctx context.Context) ([]database, error) {
	pages := rds.NewDescribeDBInstancesPaginator(r.client, &rds.DescribeDBInstancesInput{MaxRecords: aws.Int32(pageSize)})
	return collect(ctx, pages.HasMorePages, func() ([]database, *string, error) {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, nil, err
		}
		databases := make([]database, 0, len(page.DBInstances))
		for k := range page.DBInstances {
			databases = append(databases, fromInstance(&page.DBInstances[k], r.place))
		}
		return databases, page.Marker, nil
	})
}

func (r *region) clusters(ctx context.Context) ([]database, error) {
	pages := rds.NewDescribeDBClustersPaginator(r.client, &rds.DescribeDBClustersInput{MaxRecords: aws.Int32(pageSize)})
	return collect(ctx, pages.HasMorePages, func() ([]database, *string, error) {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, nil, err
		}
		databases := make([]database, 0, len(page.DBClusters))
		for k := range page.DBClusters {
			databases = append(databases, fromCluster(&page.DBClusters[k], r.place))
		}
		return databases, page.Marker, nil
	})
}

// collect reads all pages, or none: half an answer would look as if the rest had vanished.
func collect(ctx context.Context, more func() bool, next func() ([]database, *string, error)) ([]database, error) {
	var all []database
	markers := make(map[string]bool)
	for pages := 0; more(); pages++ {
		if pages == maxPages {
			return nil, fmt.Errorf("more than %d pages", maxPages)
		}
		page, marker, err := next()
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if m := aws.ToString(marker); m != "" {
			if markers[m] {
				return nil, errors.New("the service goes in circles: it gave a page's marker twice")
			}
			markers[m] = true
		}
	}
	return all, ctx.Err()
}

// actions are what a kind needs the permission for; deploy/iam has them all.
var actions = map[Kind]string{Instances: "rds:DescribeDBInstances", Clusters: "rds:DescribeDBClusters"}

// explain turns an error of the SDK into one that says what to do.
func explain(ctx context.Context, err error, kind Kind, role string) error {
	if err == nil {
		return nil
	}
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() != "" {
		return fmt.Errorf("%s%s (AWS says: %.300s)", api.ErrorCode(), adviceFor(err, api.ErrorCode(), kind, role), api.ErrorMessage())
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func adviceFor(err error, code string, kind Kind, role string) string {
	var operation *smithy.OperationError
	switch {
	case code == "AccessDenied" && role != "" && errors.As(err, &operation) && operation.Service() == sts.ServiceID,
		code == "AccessDenied" && role != "" && strings.Contains(err.Error(), "AssumeRole"):
		return fmt.Sprintf(": the gate's AWS identity may not assume %s: allow it sts:AssumeRole, and name it in the role's trust policy", role)
	case code == "AccessDenied" || code == "AccessDeniedException" || code == "UnauthorizedOperation":
		return ": allow the gate's AWS identity " + actions[kind]
	case code == "Throttling" || code == "ThrottlingException" || code == "RequestLimitExceeded":
		return ": too many requests in this AWS account: it is tried again later"
	case code == "InvalidClientTokenId" || code == "UnrecognizedClientException":
		return ": the AWS credentials are not valid here: check what the gate's environment, profile or instance role gives it, and whether the region is enabled for the account"
	case code == "ExpiredToken" || code == "ExpiredTokenException":
		return ": the AWS credentials have expired: renew them, or give the gate a role"
	case code == "SignatureDoesNotMatch" || code == "InvalidSignatureException":
		return ": the AWS credentials are wrong, or this machine's clock is"
	}
	return ""
}

// accountOf returns the account in an ARN, or "".
func accountOf(arn string) string {
	if parts := strings.Split(arn, ":"); len(parts) >= 6 && parts[0] == "arn" {
		return parts[4]
	}
	return ""
}
