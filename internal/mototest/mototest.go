//go:build moto

// Package mototest runs moto, a server that plays AWS, behind a proxy that throttles and fails. It is for tests under the build
// tag moto; `scripts/install moto` installs moto.
package mototest

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/eventually"
)

// Server is moto behind its proxy. The SDK is pointed to the proxy by the environment, so tests with it can't be parallel.
type Server struct {
	url      string                           // of moto itself, for making what is to be found
	Disturb  atomic.Bool                      // throttle a quarter of the requests, and fail some
	Failing  atomic.Pointer[string]           // the region whose answers about RDS are errors
	Rewrite  atomic.Pointer[strings.Replacer] // of what moto answers, since moto moves no endpoint
	Requests atomic.Int64
	Thrown   atomic.Int64 // of the requests, those that Disturb had fail
}

// Start runs moto until the test ends.
func Start(t *testing.T) *Server {
	t.Helper()
	s := &Server{url: "http://" + serve(t)}
	to, _ := url.Parse(s.url)
	forward := httputil.NewSingleHostReverseProxy(to)
	forward.ModifyResponse = s.rewritten
	front := httptest.NewServer(s.disturbed(forward))
	t.Cleanup(front.Close)
	for key, value := range map[string]string{
		"AWS_ENDPOINT_URL": front.URL, "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(key, value)
	}
	return s
}

// serve runs moto and returns its address. Moto imports for seconds, and for minutes on a machine with more to do than it can; so
// what counts is whether it still runs. Its port may be taken by another program meanwhile, and it is tried again.
func serve(t *testing.T) (address string) {
	t.Helper()
	cache := os.Getenv("HOURGATE_CACHE")
	if cache == "" {
		cache = "/var/tmp/hourgate"
	}
	var output bytes.Buffer
	for range 3 {
		port := strconv.Itoa(20000 + rand.IntN(12000)) // below those that Linux gives to connections
		address = net.JoinHostPort("127.0.0.1", port)
		server := exec.Command(filepath.Join(cache, "moto", "bin", "moto_server"), "-H", "127.0.0.1", "-p", port)
		output.Reset()
		server.Stdout, server.Stderr = &output, &output
		if err := server.Start(); err != nil {
			t.Fatalf("run scripts/install moto: %v", err)
		}
		ended := make(chan struct{})
		go func() { _ = server.Wait(); close(ended) }()
		t.Cleanup(func() { _ = server.Process.Kill(); <-ended })
		if answers(t, "http://"+address+"/moto-api/", ended) {
			return address
		}
	}
	t.Fatalf("moto does not start:\n%s", output.String())
	return ""
}

// answers waits until moto answers, or has ended.
func answers(t *testing.T, url string, ended <-chan struct{}) (ok bool) {
	t.Helper()
	eventually.Within(t, 5*time.Minute, "moto answers", func() bool {
		response, err := http.Get(url)
		if err == nil {
			_ = response.Body.Close()
			ok = strings.Contains(response.Header.Get("Server"), "Werkzeug")
			return true
		}
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	return ok
}

func (s *Server) disturbed(forward http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Requests.Add(1)
		region := s.Failing.Load()
		switch signed := r.Header.Get("Authorization"); {
		case region != nil && strings.Contains(signed, "/"+*region+"/rds/"):
			awstest.Problem(w, http.StatusServiceUnavailable, "ServiceUnavailable", "down")
		case s.Disturb.Load() && rand.IntN(4) == 0:
			s.Thrown.Add(1)
			problem(w, r, http.StatusBadRequest, "Throttling")
		case s.Disturb.Load() && rand.IntN(20) == 0:
			s.Thrown.Add(1)
			problem(w, r, http.StatusInternalServerError, "InternalFailure")
		default:
			forward.ServeHTTP(w, r)
		}
	})
}

func (s *Server) rewritten(r *http.Response) error {
	rewrite := s.Rewrite.Load()
	if rewrite == nil {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	changed := rewrite.Replace(string(body))
	r.Body = io.NopCloser(strings.NewReader(changed))
	r.ContentLength = int64(len(changed))
	r.Header.Set("Content-Length", strconv.Itoa(len(changed)))
	return nil
}

// problem answers with an error in the form of the service that is asked: Secrets Manager's is JSON.
func problem(w http.ResponseWriter, r *http.Request, status int, code string) {
	if r.Header.Get("X-Amz-Target") == "" {
		awstest.Problem(w, status, code, "disturbed")
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"__type": %q, "message": "disturbed"}`, code+map[bool]string{true: "Exception"}[code == "Throttling"])
}

// Account is one region of an account, past the proxy.
type Account struct {
	RDS     *rds.Client
	secrets *secretsmanager.Client
}

// Account is for making things in an account and region.
func (s *Server) Account(t *testing.T, account, region string) *Account {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion(region), config.WithBaseEndpoint(s.url))
	if err != nil {
		t.Fatal(err)
	}
	cfg.BaseEndpoint = aws.String(s.url)
	cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), "arn:aws:iam::"+account+":role/maker"))
	return &Account{RDS: rds.NewFromConfig(cfg), secrets: secretsmanager.NewFromConfig(cfg)}
}

// Secret makes a secret.
func (a *Account) Secret(t *testing.T, name, document string) {
	t.Helper()
	_, err := a.secrets.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(name), SecretString: aws.String(document)})
	if err != nil {
		t.Fatal(err)
	}
}

// Instance makes a DB instance.
func (a *Account) Instance(t *testing.T, id, engine string, tags []types.Tag) {
	t.Helper()
	_, err := a.RDS.CreateDBInstance(t.Context(), &rds.CreateDBInstanceInput{
		DBInstanceIdentifier: aws.String(id), Engine: aws.String(engine), DBInstanceClass: aws.String("db.t4g.micro"), AllocatedStorage: aws.Int32(20),
		MasterUsername: aws.String("master"), MasterUserPassword: aws.String("a password 1"), Tags: tags, Port: aws.Int32(5432),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Tags makes a list of keys and values.
func Tags(pairs ...string) []types.Tag {
	var tags []types.Tag
	for k := 0; k+1 < len(pairs); k += 2 {
		tags = append(tags, types.Tag{Key: aws.String(pairs[k]), Value: aws.String(pairs[k+1])})
	}
	return tags
}
