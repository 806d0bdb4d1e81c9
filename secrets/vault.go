package secrets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// vaultTimeout bounds one fetch.
const vaultTimeout = 10 * time.Second

// HashiCorpVault names a secret in the key/value store, version 2, of HashiCorp Vault or OpenBao. The token comes from a
// file, such as Vault Agent keeps fresh, or from the environment variable VAULT_TOKEN; both are read at each fetch.
// See https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version.
type HashiCorpVault struct {
	Address   string `yaml:"address"`    // required: https://host:port; http only for this machine
	Mount     string `yaml:"mount"`      // default "secret"
	Path      string `yaml:"path"`       // required: of the secret within the mount
	Namespace string `yaml:"namespace"`  // optional
	TokenFile string `yaml:"token_file"` // default: VAULT_TOKEN
	CAFile    string `yaml:"ca_file"`    // PEM of the authorities for Address; default: the operating system's
}

func (v *HashiCorpVault) problems() strictyaml.Problems {
	var problems strictyaml.Problems
	address, err := url.Parse(v.Address)
	if err != nil || address.Host == "" || address.Scheme != "https" && !loopback(address) {
		problems = append(problems, problem("hashicorp_vault.address", "want https://host:port")...)
	}
	if strings.Trim(v.Path, "/") == "" {
		problems = append(problems, problem("hashicorp_vault.path", "required")...)
	}
	return problems
}

func loopback(u *url.URL) bool {
	host := u.Hostname()
	return u.Scheme == "http" && (host == "localhost" || host == "127.0.0.1" || host == "::1")
}

type vaultSource struct {
	HashiCorpVault
	client *http.Client
}

func openVault(c *HashiCorpVault) (Source, error) {
	s := &vaultSource{HashiCorpVault: *c, client: &http.Client{Timeout: vaultTimeout}}
	if s.Mount == "" {
		s.Mount = "secret"
	}
	// The token must not follow a redirection to wherever the answer points.
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if c.CAFile == "" {
		return s, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("hashicorp_vault.ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("hashicorp_vault.ca_file: %s holds no PEM certificate", c.CAFile)
	}
	s.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	return s, nil
}

func (s *vaultSource) String() string { return "Vault secret " + s.Mount + "/" + s.Path }

func (s *vaultSource) Fetch(ctx context.Context, stage Stage) (Credential, error) {
	if stage != Current {
		return Credential{}, ErrNoStage
	}
	doc, err := s.read(ctx)
	if err != nil {
		return Credential{}, fmt.Errorf("fetching %s: %w", s, err)
	}
	cred, err := parse(doc)
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", s, err)
	}
	return cred, nil
}

// read returns the newest version's data. Nothing of an answer's body is passed on in an error.
func (s *vaultSource) read(ctx context.Context) ([]byte, error) {
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	from := strings.TrimSuffix(s.Address, "/") + "/v1/" + strings.Trim(s.Mount, "/") + "/data/" + strings.Trim(s.Path, "/")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Vault-Token", token)
	request.Header.Set("X-Vault-Request", "true")
	if s.Namespace != "" {
		request.Header.Set("X-Vault-Namespace", s.Namespace)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return nil, errors.New("permission denied: the token has expired, or its policy lacks read on this path")
	case http.StatusNotFound:
		return nil, errors.New("not found: check mount and path, and that the mount is a key/value store of version 2")
	case http.StatusServiceUnavailable:
		return nil, errors.New("vault is sealed or in maintenance")
	default:
		return nil, fmt.Errorf("answer with HTTP status %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 2*maxDocument))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Data json.RawMessage `json:"data"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil, malformed("not an answer of Vault's key/value store")
	}
	return answer.Data.Data, nil
}

func (s *vaultSource) token() (string, error) {
	if s.TokenFile == "" {
		if token := os.Getenv("VAULT_TOKEN"); token != "" {
			return token, nil
		}
		return "", errors.New("no token: set VAULT_TOKEN or hashicorp_vault.token_file")
	}
	token, err := os.ReadFile(s.TokenFile)
	if err != nil {
		return "", fmt.Errorf("hashicorp_vault.token_file: %w", err)
	}
	return strings.TrimSpace(string(token)), nil
}
