package secrets_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/secrets"
)

// awsServer speaks as much of Secrets Manager's protocol (AWS JSON 1.1) as GetSecretValue needs. answer gets the secret
// id and staging label; a status of 0 means 200.
type awsServer struct {
	answer func(id, label string) (status int, body any)

	mu    sync.Mutex
	asked []string
}

func (s *awsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ SecretId, VersionStage string }
	body, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(body, &in); err != nil || r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue" {
		http.Error(w, "unexpected request", http.StatusNotImplemented)
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, in.VersionStage)
	s.mu.Unlock()
	status, answer := s.answer(in.SecretId, in.VersionStage)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(max(status, http.StatusOK))
	if text, ok := answer.(string); ok {
		io.WriteString(w, text)
		return
	}
	json.NewEncoder(w).Encode(answer)
}

func (s *awsServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func apiError(code, message string) map[string]string {
	return map[string]string{"__type": code, "Message": message}
}

func secretString(doc string) map[string]any {
	return map[string]any{"Name": "prod/orders", "SecretString": doc}
}

func awsEnv(t *testing.T, endpoint string) {
	t.Helper()
	for key, value := range map[string]string{
		"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "example", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_PROFILE": "", "AWS_REGION": "ap-south-2", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "",
		"AWS_WEB_IDENTITY_TOKEN_FILE": "",
	} {
		t.Setenv(key, value)
	}
}

func startAWS(t *testing.T, answer func(id, label string) (int, any)) (*awsServer, *httptest.Server, secrets.Source) {
	t.Helper()
	handler := &awsServer{answer: answer}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	awsEnv(t, server.URL)
	source := openSource(t, secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{Region: "eu-west-1", SecretID: "prod/orders"}})
	return handler, server, source
}

func TestAWSStages(t *testing.T) {
	_, _, source := startAWS(t, func(id, label string) (int, any) {
		if id != "prod/orders" {
			return 400, apiError("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
		}
		switch label {
		case "AWSCURRENT":
			return 0, secretString(document("admin", "current"))
		case "AWSPREVIOUS":
			doc := base64.StdEncoding.EncodeToString([]byte(document("admin", "previous")))
			return 0, map[string]any{"Name": id, "SecretBinary": doc}
		}
		return 400, apiError("ResourceNotFoundException", "Secrets Manager can't find the specified secret value for staging label: "+label)
	})
	for stage, want := range map[secrets.Stage]string{secrets.Current: "current", secrets.Previous: "previous"} {
		got, err := source.Fetch(t.Context(), stage)
		if err != nil || !got.Equal(cred("admin", want)) {
			t.Errorf("%v: got %+v, %v", stage, got, err)
		}
	}
	for _, stage := range []secrets.Stage{secrets.Pending, 7} {
		if _, err := source.Fetch(t.Context(), stage); !errors.Is(err, secrets.ErrNoStage) {
			t.Errorf("%v: got %v, want ErrNoStage", stage, err)
		}
	}
	if got, want := source.String(), "AWS secret prod/orders in eu-west-1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAWSErrorsSayWhatToDo(t *testing.T) {
	const prefix = "fetching AWS secret prod/orders in eu-west-1 (AWSCURRENT): "
	for _, tt := range []struct{ code, message, want string }{
		{"ResourceNotFoundException", "can't find it", "check secret_id and region"},
		{"AccessDeniedException", "User: arn:aws:iam::1:user/x is not authorized", "secretsmanager:GetSecretValue on the secret and kms:Decrypt on its key (AWS says: User: arn:aws:iam::1:user/x"},
		{"DecryptionFailure", "no", "the secret's KMS key can't be used"},
		{"InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.", "restore it"},
		{"ExpiredTokenException", "expired", "renew them"},
		{"UnheardOfException", "of a later year", "UnheardOfException: of a later year"},
	} {
		_, _, source := startAWS(t, func(string, string) (int, any) { return 400, apiError(tt.code, tt.message) })
		_, err := source.Fetch(t.Context(), secrets.Current)
		if got := fmt.Sprint(err); !strings.HasPrefix(got, prefix+tt.code) || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %s", tt.code, got)
		}
	}
}

func TestAWSWithoutCredentials(t *testing.T) {
	awsEnv(t, "http://127.0.0.1:1")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	source := openSource(t, secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{Region: "eu-west-1", SecretID: "prod/orders"}})
	if _, err := source.Fetch(t.Context(), secrets.Current); err == nil || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("got %v", err)
	}
}

func TestAWSThrottledThenGood(t *testing.T) {
	calls := 0
	server, _, source := startAWS(t, func(string, string) (int, any) {
		if calls++; calls < 3 {
			return 400, apiError("ThrottlingException", "Rate exceeded")
		}
		return 0, secretString(document("admin", "p"))
	})
	got, err := source.Fetch(t.Context(), secrets.Current)
	if err != nil || !got.Equal(cred("admin", "p")) {
		t.Errorf("got %+v, %v", got, err)
	}
	if diff := cmp.Diff([]string{"AWSCURRENT", "AWSCURRENT", "AWSCURRENT"}, server.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestAWSNeverQuotesAnAnswer(t *testing.T) {
	bodies := map[string]any{
		"not JSON":           canary,
		"cut off":            `{"Name":"x","SecretString":"{\"username\":\"admin\",\"password\":\"` + canary,
		"string as object":   map[string]any{"SecretString": map[string]string{"password": canary}},
		"string as number":   `{"SecretString": 12` + canary + `}`,
		"binary not base64":  map[string]any{"SecretBinary": canary},
		"date of wrong type": map[string]any{"CreatedDate": canary, "SecretString": document("admin", canary)},
		"bad escape":         `{"SecretString":"\c` + canary + `"}`,
		"a list":             `["` + canary + `"]`,
	}
	for name, doc := range malformed {
		if name != "not UTF-8" && name != "bad UTF-16" { // can't be told in a JSON answer
			bodies["document: "+name] = secretString(doc)
		}
	}
	for name, body := range bodies {
		_, _, source := startAWS(t, func(string, string) (int, any) { return 0, body })
		_, err := source.Fetch(t.Context(), secrets.Current)
		if err == nil {
			t.Errorf("%s: got no error", name)
			continue
		}
		if leaks(err.Error()) || leaks(fmt.Sprintf("%#v", err)) {
			t.Errorf("%s: the error leaks: %v", name, err)
		}
		if strings.HasPrefix(name, "document: ") && !errors.Is(err, secrets.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if leaks(fmt.Sprintf("%+v", e)) {
				t.Errorf("%s: %T in the chain leaks", name, e)
			}
		}
	}
}

func TestAWSOutage(t *testing.T) {
	_, server, source := startAWS(t, func(string, string) (int, any) { return 0, secretString(document("admin", "p")) })
	store := secrets.NewStore(source, secrets.StoreConfig{})
	use := func() error {
		return store.Use(t.Context(), func(_ context.Context, c secrets.Credential) error {
			if !c.Equal(cred("admin", "p")) {
				t.Errorf("got %+v", c)
			}
			return nil
		})
	}
	if err := use(); err != nil {
		t.Fatal(err)
	}
	server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := source.Fetch(ctx, secrets.Current); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if err := store.Refresh(t.Context()); err == nil || leaks(err.Error()) {
		t.Errorf("refreshing: got %v", err)
	}
	if err := use(); err != nil { // stale, and good
		t.Error(err)
	}
	if s := store.Status(); !s.Loaded || s.FetchError == nil || s.Fetched.IsZero() {
		t.Errorf("got %+v", s)
	}
}

// A secret of another account is fetched with a role of that account.
func TestAWSRole(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signer := r.Header.Get("Authorization")
		switch {
		case r.Header.Get("X-Amz-Target") == "":
			if r.FormValue("RoleArn") != "arn:aws:iam::222222222222:role/hourgate" || r.FormValue("ExternalId") != "shared" || !strings.Contains(signer, "AKIDEXAMPLE") {
				http.Error(w, "not this role", http.StatusForbidden)
				return
			}
			io.WriteString(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>
				<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`)
		case !strings.Contains(signer, "ASIAROLE") || !strings.Contains(signer, "eu-central-1"):
			http.Error(w, "not the role", http.StatusForbidden)
		default:
			json.NewEncoder(w).Encode(secretString(document("hourgate", "example")))
		}
	}))
	t.Cleanup(server.Close)
	awsEnv(t, server.URL)
	source := openSource(t, secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{
		Region: "eu-central-1", SecretID: "prod/orders", AssumeRole: "arn:aws:iam::222222222222:role/hourgate", ExternalID: "shared",
	}})
	if _, err := source.Fetch(t.Context(), secrets.Current); err != nil {
		t.Error(err)
	}
}
