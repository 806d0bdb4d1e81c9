//go:build moto

package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/secrets"
)

// startMoto runs moto, which `scripts/install moto` installs, and points the SDK to it. stop kills it.
func startMoto(t *testing.T) (client *secretsmanager.Client, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	cache := os.Getenv("HOURGATE_CACHE")
	if cache == "" {
		cache = "/var/tmp/hourgate"
	}
	server := exec.Command(filepath.Join(cache, "moto", "bin", "moto_server"), "-H", "127.0.0.1", "-p", port)
	if err := server.Start(); err != nil {
		t.Fatalf("run scripts/install moto: %v", err)
	}
	stop = sync.OnceFunc(func() { _ = server.Process.Kill(); _ = server.Wait() })
	t.Cleanup(stop)
	awsEnv(t, "http://127.0.0.1:"+port)
	eventually.True(t, "moto answers", func() bool {
		response, err := http.Get("http://127.0.0.1:" + port + "/moto-api/")
		if err == nil {
			response.Body.Close()
		}
		return err == nil
	})
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("eu-west-1"))
	if err != nil {
		t.Fatal(err)
	}
	return secretsmanager.NewFromConfig(cfg), stop
}

// rotation is a secret and the server that its password is for.
type rotation struct {
	*secretsmanager.Client
	server atomic.Pointer[string] // the password that the server takes
}

func (r *rotation) put(t *testing.T, password string, stages ...string) (version *string) {
	t.Helper()
	out, err := r.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{
		SecretId: aws.String("prod/orders"), SecretString: aws.String(document("hourgate", password)), VersionStages: stages,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.VersionId
}

func (r *rotation) login(_ context.Context, c secrets.Credential) error {
	if c.Password.Reveal() != *r.server.Load() {
		return fmt.Errorf("%w: 28P01", secrets.ErrRejected)
	}
	return nil
}

// Staging labels, a rotation under load, an outage, and errors, with the real SDK.
func TestMoto(t *testing.T) {
	client, stop := startMoto(t)
	r := &rotation{Client: client}
	first := "first"
	r.server.Store(&first)
	_, err := client.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{
		Name: aws.String("prod/orders"), SecretString: aws.String(document("hourgate", first)),
	})
	if err != nil {
		t.Fatal(err)
	}
	source := openSource(t, secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{Region: "eu-west-1", SecretID: "prod/orders"}})
	for stage, want := range map[secrets.Stage]error{secrets.Current: nil, secrets.Pending: secrets.ErrNoStage, secrets.Previous: secrets.ErrNoStage} {
		if _, err := source.Fetch(t.Context(), stage); !errors.Is(err, want) {
			t.Errorf("%s at first: got %v, want %v", stage, err, want)
		}
	}

	// A rotation as AWS's function does it: pending, then the server, then current; while people log in.
	store := secrets.NewStore(source, secrets.StoreConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	var logins, failures atomic.Int64
	var people sync.WaitGroup
	for range 8 {
		people.Go(func() {
			for ctx.Err() == nil {
				if err := store.Use(ctx, r.login); err != nil && ctx.Err() == nil {
					failures.Add(1)
					t.Log(err)
				}
				logins.Add(1)
				time.Sleep(time.Millisecond)
			}
		})
	}
	for round := range 5 {
		next := fmt.Sprintf("password %d", round)
		version := r.put(t, next, "AWSPENDING")
		time.Sleep(20 * time.Millisecond)
		r.server.Store(&next)
		time.Sleep(50 * time.Millisecond)
		listed, err := client.ListSecretVersionIds(t.Context(), &secretsmanager.ListSecretVersionIdsInput{SecretId: aws.String("prod/orders")})
		if err != nil {
			t.Fatal(err)
		}
		var current *string
		for _, v := range listed.Versions {
			if strings.Contains(strings.Join(v.VersionStages, " "), "AWSCURRENT") {
				current = v.VersionId
			}
		}
		_, err = client.UpdateSecretVersionStage(t.Context(), &secretsmanager.UpdateSecretVersionStageInput{
			SecretId: aws.String("prod/orders"), VersionStage: aws.String("AWSCURRENT"), MoveToVersionId: version, RemoveFromVersionId: current,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Refresh(t.Context()); err != nil {
			t.Errorf("refresh: %v", err)
		}
	}
	cancel()
	people.Wait()
	t.Logf("%d log-ins over 5 rotations, %d failed", logins.Load(), failures.Load())
	if failures.Load() > 0 {
		t.Errorf("%d of %d log-ins failed", failures.Load(), logins.Load())
	}
	if cred, err := source.Fetch(t.Context(), secrets.Previous); err != nil || cred.Password.Reveal() != "password 3" {
		t.Errorf("previous after the rotations: %v", err)
	}

	missing := openSource(t, secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{Region: "eu-west-1", SecretID: "none"}})
	if _, err := missing.Fetch(t.Context(), secrets.Current); err == nil || !strings.Contains(err.Error(), "check secret_id and region") {
		t.Errorf("missing secret: got %v", err)
	}

	stop()
	if err := store.Refresh(t.Context()); err == nil {
		t.Error("refreshed from a store that is down")
	}
	if err := store.Use(t.Context(), r.login); err != nil {
		t.Errorf("while the store is down: %v", err)
	}
}
