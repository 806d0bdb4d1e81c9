package verifier_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/verifier"
)

// fromPostgreSQL is what PostgreSQL 15 stored for the password pencil.
const fromPostgreSQL = "SCRAM-SHA-256$4096:6eDUWcyTuwyuTs49UElVUg==" +
	"$6toJAcGl1gwDXtQA4D3UTlaN3RKsbaC8hoMvSdT9SGY=:S2nJCVTPPQUWlm4B+HKSv+aLnq+wChqUa8YUUFyexi8="

func TestRoundTrip(t *testing.T) {
	made, err := verifier.New("correct horse", verifier.DefaultIterations)
	if err != nil {
		t.Fatal(err)
	}
	got, err := verifier.Parse(made.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fields(made), fields(got)); diff != "" {
		t.Errorf("parsed verifier differs (-want +got):\n%s", diff)
	}
	if again, _ := verifier.New("correct horse", verifier.DefaultIterations); again.Encode() == made.Encode() {
		t.Error("two verifiers of one password are the same: the salt is not random")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		password   string
		iterations int
		want       string
	}{
		{"", 4096, "the password is empty"},
		{"pencil", 0, "iterations must be from 1 to 10000000, got 0"},
		{"pencil", 10_000_001, "iterations must be from 1 to 10000000, got 10000001"},
	} {
		if _, err := verifier.New(tt.password, tt.iterations); err == nil || err.Error() != tt.want {
			t.Errorf("New(%q, %d): got error %v, want %q", tt.password, tt.iterations, err, tt.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const salt, key = "6eDUWcyTuwyuTs49UElVUg==", "6toJAcGl1gwDXtQA4D3UTlaN3RKsbaC8hoMvSdT9SGY="
	form := "not a verifier: put what `hourgate passwd` prints here (SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>)"
	iterations := "the verifier's iterations are not a number from 1 to 10000000"
	saltError := "the verifier's salt is not base64"
	stored := "the verifier's stored key is not 32 bytes in base64"
	server := "the verifier's server key is not 32 bytes in base64"
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", form},
		{"a password", "hunter2", form},
		{"md5", "md53175bce1d3201d16594cebf9d7eb3f9d", form},
		{"another method", "SCRAM-SHA-1$4096:" + salt + "$" + key + ":" + key, form},
		{"lower case", "scram-sha-256$4096:" + salt + "$" + key + ":" + key, form},
		{"cut off", "SCRAM-SHA-256$4096:" + salt + "$" + key, form},
		{"no iterations", "SCRAM-SHA-256$:" + salt + "$" + key + ":" + key, iterations},
		{"zero iterations", "SCRAM-SHA-256$0:" + salt + "$" + key + ":" + key, iterations},
		{"signed iterations", "SCRAM-SHA-256$+4096:" + salt + "$" + key + ":" + key, iterations},
		{"padded iterations", "SCRAM-SHA-256$04096:" + salt + "$" + key + ":" + key, iterations},
		{"endless iterations", "SCRAM-SHA-256$99999999999999999999:" + salt + "$" + key + ":" + key, iterations},
		{"too many iterations", "SCRAM-SHA-256$10000001:" + salt + "$" + key + ":" + key, iterations},
		{"no salt", "SCRAM-SHA-256$4096:$" + key + ":" + key, saltError},
		{"salt not base64", "SCRAM-SHA-256$4096:!$" + key + ":" + key, saltError},
		{"line end in the salt", "SCRAM-SHA-256$4096:6eDU\nWcyTuwyuTs49UElVUg==$" + key + ":" + key, saltError},
		{"bits after the salt", "SCRAM-SHA-256$4096:6eDUWcyTuwyuTs49UElVUh==$" + key + ":" + key, saltError},
		{"short stored key", "SCRAM-SHA-256$4096:" + salt + "$" + salt + ":" + key, stored},
		{"short server key", "SCRAM-SHA-256$4096:" + salt + "$" + key + ":" + salt, server},
		{"more after the end", fromPostgreSQL + ":" + key, server},
		{"line end after the end", fromPostgreSQL + "\n", server},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := verifier.Parse(tt.text)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
			if !got.IsZero() {
				t.Error("a refused text gave a verifier")
			}
		})
	}
}

func TestMock(t *testing.T) {
	secret := []byte("the same for as long as users should look the same")
	alice := verifier.Mock(secret, "alice")
	if diff := cmp.Diff(alice.Encode(), verifier.Mock(secret, "alice").Encode()); diff != "" {
		t.Errorf("the same name looks different (-first +second):\n%s", diff)
	}
	for name, other := range map[string]verifier.Verifier{
		"another user":   verifier.Mock(secret, "bob"),
		"another secret": verifier.Mock([]byte("another"), "alice"),
	} {
		if bytes.Equal(alice.Salt, other.Salt) || bytes.Equal(alice.StoredKey, other.StoredKey) || bytes.Equal(alice.ServerKey, other.ServerKey) {
			t.Errorf("%s shares a part of the verifier", name)
		}
	}
	if bytes.Equal(alice.StoredKey, alice.ServerKey) {
		t.Error("stored key and server key are the same")
	}
	if _, err := verifier.Parse(alice.Encode()); err != nil {
		t.Errorf("a mock verifier does not look like a real one: %v", err)
	}
}

// TestRedacted prints a verifier in every way that a slip could.
func TestRedacted(t *testing.T) {
	v, err := verifier.Parse(fromPostgreSQL)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("m", "verifier", v, "pointer", &v, "within", struct{ V verifier.Verifier }{v})
	slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "verifier", v, "pointer", &v, "within", struct{ V verifier.Verifier }{v})
	asJSON, err := json.Marshal(map[string]any{"v": v, "p": &v, "within": []verifier.Verifier{v}})
	if err != nil {
		t.Fatal(err)
	}
	printed := []string{v.String(), logged.String(), string(asJSON)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed = append(printed, fmt.Sprintf(verb, v), fmt.Sprintf(verb, &v), fmt.Sprintf(verb, struct{ V verifier.Verifier }{v}))
	}
	secrets := []string{"6toJAcGl", "S2nJCVTP", "6eDUWcyT", fmt.Sprintf("%x", v.StoredKey[:4]), fmt.Sprintf("%d", v.StoredKey[0]) + " "}
	for _, text := range printed {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%q gives a part of the verifier away", text)
			}
		}
		if !strings.Contains(text, "SCRAM-SHA-256$(redacted)") {
			t.Errorf("%q does not say that a verifier was left out", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(fromPostgreSQL)
	f.Add("SCRAM-SHA-256$1:AA==$" + strings.Repeat("A", 43) + "=:" + strings.Repeat("A", 43) + "=")
	f.Add("SCRAM-SHA-256$4096:$:")
	f.Add("md53175bce1d3201d16594cebf9d7eb3f9d")
	f.Add(fromPostgreSQL + "\n")
	f.Add(strings.Replace(fromPostgreSQL, "4096", "10000000", 1))
	f.Add(strings.Replace(fromPostgreSQL, "4096", "10000001", 1))
	f.Add(strings.Replace(fromPostgreSQL, "4096", "04096", 1))
	f.Add(strings.Replace(fromPostgreSQL, "==", "=", 1))
	f.Add(strings.Replace(fromPostgreSQL, "Vg==", "Vh==", 1))
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		v, err := verifier.Parse(text)
		var read verifier.Verifier
		if again := read.UnmarshalText([]byte(text)); fmt.Sprint(again) != fmt.Sprint(err) || read.Encode() != v.Encode() {
			t.Errorf("%q: UnmarshalText says %v, Parse %v", text, again, err)
		}
		if shape := form.FindStringSubmatch(text); (shape == nil) != (err != nil) && !almost(shape) {
			t.Errorf("%q: got error %v, but its form is right: %v", text, err, shape != nil)
		} else if almost(shape) && err == nil {
			t.Errorf("%q was accepted", text)
		}
		if err != nil {
			if !v.IsZero() || !refusals[err.Error()] {
				t.Errorf("%q: got %v and the error %q, which may hold a part of it", text, v.Iterations, err)
			}
			return
		}
		if v.Encode() != text {
			t.Errorf("Parse accepted %q, which Encode writes as %q", text, v.Encode())
		}
		if v.Iterations < 1 || v.Iterations > verifier.MaxIterations || len(v.Salt) == 0 || len(v.StoredKey) != 32 || len(v.ServerKey) != 32 {
			t.Errorf("Parse accepted %q as %v", text, fields(v))
		}
	})
}

// form is that of PostgreSQL's get_password_type and parse_scram_secret, as strict as Parse is but for what almost knows.
var form = regexp.MustCompile(`^SCRAM-SHA-256\$([1-9][0-9]{0,7}):((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==))\$[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$`)

// almost reports what the expression can't: a number that is too great, and bits behind the salt.
func almost(shape []string) bool {
	if shape == nil {
		return false
	}
	n, _ := strconv.Atoi(shape[1])
	salt, _ := base64.StdEncoding.DecodeString(shape[2])
	return n > verifier.MaxIterations || base64.StdEncoding.EncodeToString(salt) != shape[2]
}

// refusals are all errors of Parse, none of which has a part of its input.
var refusals = map[string]bool{
	"not a verifier: put what `hourgate passwd` prints here (SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>)": true,
	"the verifier's iterations are not a number from 1 to 10000000":                                                        true,

	"the verifier's salt is not base64":                   true,
	"the verifier's stored key is not 32 bytes in base64": true,
	"the verifier's server key is not 32 bytes in base64": true,
}

// fields shows go-cmp what the verifier itself would redact.
func fields(v verifier.Verifier) map[string]any {
	return map[string]any{"iterations": v.Iterations, "salt": v.Salt, "stored key": v.StoredKey, "server key": v.ServerKey}
}
