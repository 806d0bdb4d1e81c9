package secrets_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/secrets"
)

// A token is signed for the server, the region and the user; it is made anew each time and never printed.
func TestIAMToken(t *testing.T) {
	awsEnv(t, "http://127.0.0.1:1") // nobody is asked
	config := secrets.Config{RDSIAM: &secrets.RDSIAM{Region: "eu-west-1", Username: "hourgate"}}
	source := openSource(t, config.For("orders.example.eu-west-1.rds.amazonaws.com:5432"))
	cred, err := source.Fetch(t.Context(), secrets.Current)
	if err != nil {
		t.Fatal(err)
	}
	token := cred.Password.Reveal()
	parsed, err := url.Parse("https://" + token)
	if err != nil {
		t.Fatal(err)
	}
	query := parsed.Query()
	if parsed.Host != "orders.example.eu-west-1.rds.amazonaws.com:5432" || query.Get("DBUser") != "hourgate" || query.Get("Action") != "connect" ||
		query.Get("X-Amz-Expires") != "900" || !strings.Contains(query.Get("X-Amz-Credential"), "/eu-west-1/rds-db/") || len(query.Get("X-Amz-Signature")) != 64 {
		t.Errorf("got token %s", token)
	}
	if cred.Username != "hourgate" || !cred.Token {
		t.Errorf("got user %q, token %v", cred.Username, cred.Token)
	}
	if text := fmt.Sprintf("%v %+v %s", cred, cred, source); strings.Contains(text, query.Get("X-Amz-Signature")) {
		t.Errorf("the token is printed: %s", text)
	}
	if _, err := source.Fetch(t.Context(), secrets.Pending); !errors.Is(err, secrets.ErrNoStage) {
		t.Errorf("pending: got %v", err)
	}
}

func TestIAMWithoutCredentials(t *testing.T) {
	awsEnv(t, "http://127.0.0.1:1")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	source := openSource(t, secrets.Config{RDSIAM: &secrets.RDSIAM{Region: "eu-west-1", Username: "hourgate"}}.For("db:5432"))
	if _, err := source.Fetch(t.Context(), secrets.Current); err == nil {
		t.Error("got a token without AWS credentials")
	}
}
