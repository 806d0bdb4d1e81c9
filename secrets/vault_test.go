package secrets_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/secrets"
)

// vault answers as Vault's key/value store of version 2 does.
func vault(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("X-Vault-Token") != "s.token":
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"errors":["permission denied"]}`)
	case r.URL.Path == "/v1/secret/data/orders":
		io.WriteString(w, `{"data":{"data":{"username":"hourgate","password":"pa55"},"metadata":{"version":3}}}`)
	case r.URL.Path == "/v1/kv/data/team/orders" && r.Header.Get("X-Vault-Namespace") == "databases":
		io.WriteString(w, `{"data":{"data":{"username":"other","password":"pa55"}}}`)
	case r.URL.Path == "/v1/secret/data/odd":
		io.WriteString(w, `{"data":{"data":{"username":"hourgate","pass":"pa55"}}}`)
	case r.URL.Path == "/v1/secret/data/page":
		io.WriteString(w, `<html>pa55`)
	case r.URL.Path == "/v1/secret/data/elsewhere":
		http.Redirect(w, r, "/v1/secret/data/orders", http.StatusTemporaryRedirect)
	case r.URL.Path == "/v1/secret/data/sealed":
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errors":[]}`)
	}
}

func TestVault(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(vault))
	defer server.Close()
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("s.token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_TOKEN", "s.token")
	for name, rule := range map[string]struct {
		c        secrets.HashiCorpVault
		username string
		err      string
	}{
		"default mount":       {c: secrets.HashiCorpVault{Path: "orders"}, username: "hourgate"},
		"token in a file":     {c: secrets.HashiCorpVault{Path: "/orders/", TokenFile: tokenFile}, username: "hourgate"},
		"mount and namespace": {c: secrets.HashiCorpVault{Mount: "kv", Path: "team/orders", Namespace: "databases"}, username: "other"},
		"no token file":       {c: secrets.HashiCorpVault{Path: "orders", TokenFile: tokenFile + "x"}, err: "token_file"},
		"nothing there":       {c: secrets.HashiCorpVault{Path: "none"}, err: "not found"},
		"no password":         {c: secrets.HashiCorpVault{Path: "odd"}, err: `no key "password"`},
		"not Vault":           {c: secrets.HashiCorpVault{Path: "page"}, err: "not an answer"},
		"redirected":          {c: secrets.HashiCorpVault{Path: "elsewhere"}, err: "HTTP status 307"},
		"sealed":              {c: secrets.HashiCorpVault{Path: "sealed"}, err: "sealed"},
	} {
		rule.c.Address = server.URL
		cred, err := openSource(t, secrets.Config{HashiCorpVault: &rule.c}).Fetch(t.Context(), secrets.Current)
		switch {
		case rule.err == "" && (err != nil || cred.Username != rule.username || cred.Password.Reveal() != "pa55"):
			t.Errorf("%s: got user %q, error %v", name, cred.Username, err)
		case rule.err != "" && (err == nil || !strings.Contains(err.Error(), rule.err)):
			t.Errorf("%s: got %v, want %q", name, err, rule.err)
		case err != nil && (strings.Contains(err.Error(), "pa55") || strings.Contains(err.Error(), "s.token")):
			t.Errorf("%s: the error has a secret in it: %v", name, err)
		}
	}
	t.Setenv("VAULT_TOKEN", "expired")
	_, err := openSource(t, secrets.Config{HashiCorpVault: &secrets.HashiCorpVault{Address: server.URL, Path: "orders"}}).Fetch(t.Context(), secrets.Current)
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("expired token: got %v", err)
	}
}
