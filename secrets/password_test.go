package secrets_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/hourgate/hourgate/secrets"
)

const canary = "canary-Zq7#pass"

// leaks says whether text holds the canary, in clear or in the forms that printing gives it.
func leaks(text string) bool {
	for _, form := range []string{
		canary, canary[:6], fmt.Sprintf("%x", canary)[:12], fmt.Sprintf("%X", canary)[:12], fmt.Sprintf("%d", []byte(canary))[1:12],
	} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestPasswordIsNeverPrinted(t *testing.T) {
	password := secrets.NewPassword(canary)
	cred := secrets.Credential{Username: "admin", Password: password}
	hidden := struct {
		cred secrets.Credential
		list []secrets.Password
		m    map[string]secrets.Password
	}{cred, []secrets.Password{password}, map[string]secrets.Password{"a": password}}

	for _, v := range []any{password, &password, cred, &cred, hidden, &hidden, []any{password}, []secrets.Credential{cred}} {
		for _, verb := range strings.Split("v +v #v s q x X d t e g c U b o p T 10s .3s # x", " ") {
			if got := fmt.Sprintf("%"+verb, v); leaks(got) {
				t.Errorf("%%%s of %T: got %s", verb, v, got)
			}
		}
		if got := fmt.Sprint(v) + fmt.Sprintln(v); leaks(got) {
			t.Errorf("Sprint of %T: got %s", v, got)
		}
		if err := fmt.Errorf("oops: %v", v); leaks(err.Error()) || leaks(fmt.Sprintf("%+v", errors.Join(err))) {
			t.Errorf("error with %T: got %v", v, err)
		}
		if b, err := json.Marshal(v); leaks(string(b)) || leaks(fmt.Sprint(err)) {
			t.Errorf("JSON of %T: got %s %v", v, b, err)
		}
		if b, err := xml.Marshal(v); leaks(string(b)) || leaks(fmt.Sprint(err)) {
			t.Errorf("XML of %T: got %s %v", v, b, err)
		}
		if b, err := yaml.Marshal(v); leaks(string(b)) || leaks(fmt.Sprint(err)) {
			t.Errorf("YAML of %T: got %s %v", v, b, err)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v, slog.Group("g", "v", v))
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v, slog.Group("g", "v", v))
		if leaks(log.String()) {
			t.Errorf("log of %T: got %s", v, log.String())
		}
	}
	if got, want := fmt.Sprintf("%+v", cred), "{Username:admin Password:[redacted] Token:false}"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := cmp.Diff(cred, secrets.Credential{Username: "admin"}); leaks(got) || got == "" {
		t.Errorf("diff: got %q", got)
	}
	if got := password.String() + password.GoString() + password.LogValue().String(); got != "[redacted][redacted][redacted]" {
		t.Errorf("got %q", got)
	}
}

func TestPasswordReveal(t *testing.T) {
	if got := secrets.NewPassword(canary).Reveal(); got != canary {
		t.Errorf("got %q", got)
	}
	var zero secrets.Password
	if zero.Reveal() != "" || !zero.Equal(secrets.NewPassword("")) {
		t.Error("the zero value is not the empty password")
	}
	if secrets.NewPassword("a").Equal(secrets.NewPassword("b")) || !secrets.NewPassword("a").Equal(secrets.NewPassword("a")) {
		t.Error("Equal is wrong")
	}
}
