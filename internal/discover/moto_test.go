//go:build moto

package discover_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/discover"
)

// motoProxy stands between the SDK and moto, which `scripts/install moto` installs.
type motoProxy struct {
	url      string // of moto itself, for making what is to be found
	disturb  atomic.Bool
	failing  atomic.Pointer[string] // the region whose answers are errors
	requests atomic.Int64
	thrown   atomic.Int64
}

func startMoto(t *testing.T) *motoProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	cache := os.Getenv("HOURGATE_CACHE")
	if cache == "" {
		cache = "/var/tmp/hourgate"
	}
	_, port, _ := net.SplitHostPort(address)
	server := exec.Command(filepath.Join(cache, "moto", "bin", "moto_server"), "-H", "127.0.0.1", "-p", port)
	if err := server.Start(); err != nil {
		t.Fatalf("run scripts/install moto: %v", err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	p := &motoProxy{url: "http://" + address}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, err := http.Get(p.url + "/moto-api/")
		if err == nil {
			response.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("moto does not start: %v", err)
		}
	}
	to, _ := url.Parse(p.url)
	forward := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests.Add(1)
		region := p.failing.Load()
		switch signed := r.Header.Get("Authorization"); {
		case region != nil && strings.Contains(signed, "/"+*region+"/rds/"):
			awstest.Problem(w, http.StatusServiceUnavailable, "ServiceUnavailable", "down")
		case p.disturb.Load() && rand.IntN(4) == 0:
			p.thrown.Add(1)
			awstest.Problem(w, http.StatusBadRequest, "Throttling", "Rate exceeded")
		case p.disturb.Load() && rand.IntN(20) == 0:
			p.thrown.Add(1)
			awstest.Problem(w, http.StatusInternalServerError, "InternalFailure", "try again")
		default:
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	for key, value := range map[string]string{
		"AWS_ENDPOINT_URL": front.URL, "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(key, value)
	}
	return p
}

// client is for making servers in an account and region, past the proxy.
func (p *motoProxy) client(t *testing.T, account, region string) *rds.Client {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region), config.WithBaseEndpoint(p.url))
	if err != nil {
		t.Fatal(err)
	}
	cfg.BaseEndpoint = aws.String(p.url)
	cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), "arn:aws:iam::"+account+":role/maker"))
	return rds.NewFromConfig(cfg)
}

func rdsTags(pairs ...string) []types.Tag {
	var tags []types.Tag
	for k := 0; k+1 < len(pairs); k += 2 {
		tags = append(tags, types.Tag{Key: aws.String(pairs[k]), Value: aws.String(pairs[k+1])})
	}
	return tags
}

func makeInstance(t *testing.T, c *rds.Client, id, engine string, tags []types.Tag) {
	t.Helper()
	_, err := c.CreateDBInstance(t.Context(), &rds.CreateDBInstanceInput{
		DBInstanceIdentifier: aws.String(id), Engine: aws.String(engine), DBInstanceClass: aws.String("db.t4g.micro"), AllocatedStorage: aws.Int32(20),
		MasterUsername: aws.String("master"), MasterUserPassword: aws.String("a password 1"), Tags: tags,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Three accounts, three regions, hundreds of instances and clusters, a service that throttles and fails; then changes.
func TestMoto(t *testing.T) {
	p := startMoto(t)
	accounts, regions := []string{"222222222222", "333333333333", "444444444444"}, []string{"eu-west-1", "eu-central-1", "us-east-1"}
	const each = 40
	var entries []discover.Config
	for _, account := range accounts {
		for _, region := range regions {
			c := p.client(t, account, region)
			for n := range each {
				makeInstance(t, c, fmt.Sprintf("db-%s-%s-%02d", account[:3], region, n), "postgres", rdsTags("hourgate", "true", "hourgate-secret", "prod/hourgate", "env", "prod"))
			}
			makeInstance(t, c, "other-"+region, "mysql", rdsTags("hourgate", "true"))
		}
		entries = append(entries, rdsConfig(func(c *discover.AWSRDS) {
			c.Regions, c.AssumeRole, c.Reader, c.Name = regions, "arn:aws:iam::"+account+":role/hourgate-discovery", true, ""
		}))
	}
	first := p.client(t, accounts[0], regions[0])
	if _, err := first.CreateDBCluster(t.Context(), &rds.CreateDBClusterInput{
		DBClusterIdentifier: aws.String("stock"), Engine: aws.String("aurora-postgresql"), MasterUsername: aws.String("master"), MasterUserPassword: aws.String("a password 1"),
		Tags: rdsTags("hourgate", "true", "hourgate-secret", "prod/stock"),
	}); err != nil {
		t.Fatal(err)
	}
	p.disturb.Store(true)
	began := time.Now()
	w := watch(t, discover.Options{}, entries...)
	total := each*len(accounts)*len(regions) + 1
	all := w.until(t, "all", func(all []discover.Integration) bool { return len(all) == total })
	t.Logf("%d integrations after %v, %d requests, %d of them disturbed", len(all), time.Since(began).Round(time.Millisecond), p.requests.Load(), p.thrown.Load())
	ids := make(map[string]bool)
	for _, i := range all {
		ids[i.ID] = true
		if i.NotReady != "" || i.Writer.Port == 0 || i.Secret.AWSSecretsManager == nil {
			t.Fatalf("not ready: %+v", i)
		}
	}
	if len(ids) != total {
		t.Errorf("%d identities, want %d", len(ids), total)
	}

	// A new one, a tag taken away, a deleted one, while a region of all accounts is down.
	p.failing.Store(&regions[2])
	makeInstance(t, first, "new", "postgres", rdsTags("hourgate", "true", "hourgate-secret", "x"))
	if _, err := first.RemoveTagsFromResource(t.Context(), &rds.RemoveTagsFromResourceInput{
		ResourceName: aws.String("arn:aws:rds:eu-west-1:222222222222:db:db-222-eu-west-1-00"), TagKeys: []string{"hourgate"},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.DeleteDBInstance(t.Context(), &rds.DeleteDBInstanceInput{DBInstanceIdentifier: aws.String("db-222-eu-west-1-01"), SkipFinalSnapshot: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	all = w.until(t, "the changes", func(all []discover.Integration) bool {
		return len(all) == total-1 && slices.Contains(names(all), "new")
	})
	for _, gone := range []string{"db-222-eu-west-1-00", "db-222-eu-west-1-01"} {
		if slices.Contains(names(all), gone) {
			t.Errorf("%s is still there", gone)
		}
	}
}
