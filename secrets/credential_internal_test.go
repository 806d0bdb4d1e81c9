package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzCredential: a document is taken exactly if a decoder of any JSON finds two fitting strings in it, and an error says
// one of a few sentences, none of which has a part of the document.
func FuzzCredential(f *testing.F) {
	for _, doc := range []string{
		`{"username": "admin", "password": "p"}`, `{"username":"a","password":"\u0000"}`, `{"Username":"a","password":"p"}`,
		`{"engine":"postgres","host":"h","port":5432,"username":"admin","password":"p\u00e4\n","dbname":"d"}`,
		`{"username":"a","username":"b","password":null}`, `["username"]`, `null`, " \n", `{"username":1,"password":[]}`,
		`{"username":"` + strings.Repeat("x", 64) + `","password":"p"}`, "{\"username\":\"\xff\",\"password\":\"p\"}", `{"username":"\ud800","password":"p"}`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if len(doc) > 4096 {
			return
		}
		got, err := parse(doc)
		var fields map[string]any
		decoder := json.NewDecoder(bytes.NewReader(doc))
		decoder.UseNumber() // a port may be too large for a float64: nobody looks at it
		decoded := utf8.Valid(doc) && json.Valid(doc) && decoder.Decode(&fields) == nil
		username, password := usable(fields["username"]), usable(fields["password"])
		want := decoded && username != "" && len(username) <= 63 && password != ""
		if (err == nil) != want {
			t.Fatalf("%q: got error %v, want it taken: %v", doc, err, want)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) || !sayings[strings.TrimPrefix(err.Error(), ErrMalformed.Error()+": ")] || got.Username != "" || got.Password.Reveal() != "" {
				t.Fatalf("%q: got %+v and error %q", doc, got, err)
			}
			return
		}
		if got.Username != username || got.Password.Reveal() != password || got.Token {
			t.Fatalf("%q: got user %q and password %q", doc, got.Username, got.Password.Reveal())
		}
		again, err := json.Marshal(map[string]string{"username": username, "password": password})
		if err != nil {
			t.Fatal(err)
		}
		if same, err := parse(again); err != nil || !same.Equal(got) {
			t.Fatalf("%q, written again as %q: %v", doc, again, err)
		}
	})
}

// usable is a value if it is a text that PostgreSQL can take, or "".
func usable(value any) string {
	text, ok := value.(string)
	if !ok || strings.Contains(text, "\x00") {
		return ""
	}
	return text
}

// sayings are all errors of parse for a document that is not too long.
var sayings = map[string]bool{
	"empty":           true,
	"not valid UTF-8": true,
	`not a JSON object such as {"username": "…", "password": "…"}`: true,
	`"username" is longer than 63 bytes`:                           true,
	`no key "username" (keys are case-sensitive)`:                  true,
	`no key "password" (keys are case-sensitive)`:                  true,
	`"username" is not a string`:                                   true,
	`"password" is not a string`:                                   true,
	`"username" is empty`:                                          true,
	`"password" is empty`:                                          true,
	`"username" has a NUL in it`:                                   true,
	`"password" has a NUL in it`:                                   true,
}
