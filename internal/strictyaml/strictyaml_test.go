package strictyaml_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// A colour stands for types that read their own text.
type colour string

func (c *colour) UnmarshalText(text []byte) error {
	if string(text) != "red" && string(text) != "blue" {
		return errors.New("want red or blue")
	}
	*c = colour(text)
	return nil
}

// A paint may be written as a colour alone or as a mapping.
type paint struct {
	Colour colour `yaml:"colour"`
	Coats  int    `yaml:"coats"`
}

func (p *paint) UnmarshalText(text []byte) error { return p.Colour.UnmarshalText(text) }

type inner struct {
	Name string        `yaml:"name"`
	Wait time.Duration `yaml:"wait"`
}

type config struct {
	Text   string            `yaml:"text"`
	Flag   bool              `yaml:"flag"`
	Count  int               `yaml:"count"`
	Port   uint16            `yaml:"port"`
	Small  int8              `yaml:"small"`
	Wait   time.Duration     `yaml:"wait"`
	Until  time.Time         `yaml:"until"`
	List   []string          `yaml:"list"`
	Items  []inner           `yaml:"items"`
	Labels map[string]string `yaml:"labels"`
	Maybe  *inner            `yaml:"maybe"`
	Number *int              `yaml:"number"`
	Colour colour            `yaml:"colour"`
	Paint  paint             `yaml:"paint"`
	Hidden string
	Never  string `yaml:"-"`
}

func TestDecode(t *testing.T) {
	seven := 7
	for _, tt := range []struct {
		name, data string
		want       config
	}{
		{"text", "text: hello", config{Text: "hello"}},
		{"text keeps what is written", "text: 007", config{Text: "007"}},
		{"text that YAML would make a truth value", "text: yes", config{Text: "yes"}},
		{"text that YAML would make a time", "text: 2026-11-22", config{Text: "2026-11-22"}},
		{"quoted null is text", `text: "null"`, config{Text: "null"}},
		{"empty text in quotes", `text: ""`, config{}},
		{"block text", "text: |\n  one\n  two\n", config{Text: "one\ntwo\n"}},
		{"flag", "flag: true", config{Flag: true}},
		{"count", "count: -12", config{Count: -12}},
		{"largest port", "port: 65535", config{Port: math.MaxUint16}},
		{"smallest of eight bits", "small: -128", config{Small: math.MinInt8}},
		{"duration", "wait: 1m30s", config{Wait: 90 * time.Second}},
		{"zero duration", "wait: 0s", config{}},
		{"time", "until: 2026-11-22T17:00:00Z", config{Until: time.Date(2026, 11, 22, 17, 0, 0, 0, time.UTC)}},
		{"time in quotes", `until: "2026-11-22T17:00:00Z"`, config{Until: time.Date(2026, 11, 22, 17, 0, 0, 0, time.UTC)}},
		{"time with an offset", "until: 2026-11-22T17:00:00+05:30", config{Until: time.Date(2026, 11, 22, 11, 30, 0, 0, time.UTC)}},
		{"list", "list: [a, b]", config{List: []string{"a", "b"}}},
		{"empty list is not absent", "list: []", config{List: []string{}}},
		{"list of mappings", "items:\n  - {name: a}\n  - name: b\n    wait: 1s\n", config{Items: []inner{{Name: "a"}, {Name: "b", Wait: time.Second}}}},
		{"map", "labels: {a.b: c, 1: d}", config{Labels: map[string]string{"a.b": "c", "1": "d"}}},
		{"pointer to a mapping", "maybe: {name: x}", config{Maybe: &inner{Name: "x"}}},
		{"pointer to a number", "number: 7", config{Number: &seven}},
		{"own text", "colour: red", config{Colour: "red"}},
		{"one value or a mapping: one value", "paint: blue", config{Paint: paint{Colour: "blue"}}},
		{"one value or a mapping: a mapping", "paint: {colour: blue, coats: 2}", config{Paint: paint{Colour: "blue", Coats: 2}}},
		{"comments and a marker", "# top\n---\ntext: x # end\n", config{Text: "x"}},
		{"byte order mark", "\ufefftext: x\n", config{Text: "x"}},
		{"JSON", `{"text": "x", "list": ["a"]}`, config{Text: "x", List: []string{"a"}}},
		{"no fields set", "{}", config{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got config
			if _, err := strictyaml.Decode("f.yaml", []byte(tt.data), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	known := "text, flag, count, port, small, wait, until, list, items, labels, maybe, number, colour, paint"
	aTime := "is not a time with an offset (want such as 2026-11-22T17:00:00Z or 2026-11-22T18:00:00+01:00)"
	aList := "want a list ([a, b], or a line for each that starts with -)"
	noValue := "no value given: leave the key out, or write [] for an empty list"
	for _, tt := range []struct {
		name, data string
		want       []string
	}{
		{"unknown field", "shape: round", []string{`f.yaml:1:1: unknown field "shape" (known: ` + known + `)`}},
		{"misspelt field", "items:\n  - nmae: x", []string{`f.yaml:2:5: items[0]: unknown field "nmae" (did you mean "name"? known: name, wait)`}},
		{"field without a tag", "hidden: x", []string{`f.yaml:1:1: unknown field "hidden" (known: ` + known + `)`}},
		{"untagged field by its Go name", "Never: x", []string{`f.yaml:1:1: unknown field "Never" (known: ` + known + `)`}},

		{"scalar for a list", "list: a", []string{"f.yaml:1:7: list: " + aList + ", got a single value"}},
		{"mapping for a list", "list: {a: b}", []string{"f.yaml:1:7: list: " + aList + ", got a mapping"}},
		{"list for text", "text: [a]", []string{"f.yaml:1:7: text: want a single value, got a list"}},
		{"scalar for a mapping", "maybe: x", []string{"f.yaml:1:8: maybe: want a mapping (key: value), got a single value"}},
		{"scalar for a map", "labels: x", []string{"f.yaml:1:9: labels: want a mapping (key: value), got a single value"}},
		{"list for the document", "- a", []string{"f.yaml:1:1: want a mapping (key: value), got a list"}},
		{"mapping for a type with its own text", "colour: {a: b}", []string{"f.yaml:1:9: colour: want a single value, got a mapping"}},
		{"list for a value or mapping", "paint: [red]", []string{"f.yaml:1:8: paint: want a mapping or a single value, got a list"}},
		{"mapping for a time", "until: {a: b}", []string{"f.yaml:1:8: until: want a single value, got a mapping"}},

		{"no value", "text:\nflag: true", []string{"f.yaml:1:6: text: " + noValue}},
		{"null", "text: ~", []string{"f.yaml:1:7: text: no value given: ~ means nothing (put it in quotes if you mean the text)"}},
		{"null for a pointer", "maybe: null", []string{"f.yaml:1:8: maybe: no value given: null means nothing (put it in quotes if you mean the text)"}},
		{"empty item", "list:\n  -\n  - b", []string{"f.yaml:2:4: list[0]: " + noValue}},

		{"truth value of old", "flag: yes", []string{`f.yaml:1:7: flag: want true or false without quotes, got "yes"`}},
		{"truth value in quotes", `flag: "true"`, []string{`f.yaml:1:7: flag: want true or false without quotes, got "true"`}},
		{"octal", "count: 010", []string{`f.yaml:1:8: count: want a whole number without quotes, got "010"`}},
		{"hexadecimal", "count: 0x10", []string{`f.yaml:1:8: count: want a whole number without quotes, got "0x10"`}},
		{"underscores", "count: 1_000", []string{`f.yaml:1:8: count: want a whole number without quotes, got "1_000"`}},
		{"fraction", "count: 1.0", []string{`f.yaml:1:8: count: want a whole number without quotes, got "1.0"`}},
		{"number in quotes", "count: '1'", []string{`f.yaml:1:8: count: want a whole number without quotes, got "1"`}},
		{"sexagesimal", "count: 1:30", []string{`f.yaml:1:8: count: want a whole number without quotes, got "1:30"`}},
		{"port out of range", "port: 65536", []string{"f.yaml:1:7: port: want a number from 0 to 65535, got 65536"}},
		{"negative port", "port: -1", []string{"f.yaml:1:7: port: want a number from 0 to 65535, got -1"}},
		{"eight bits out of range", "small: 128", []string{"f.yaml:1:8: small: want a number from -128 to 127, got 128"}},
		{"count out of range", "count: 99999999999999999999", []string{"f.yaml:1:8: count: want a number from -9223372036854775808 to 9223372036854775807, got 99999999999999999999"}},
		{"duration without a unit", "wait: 30", []string{`f.yaml:1:7: wait: "30" is not a duration (want such as 30s, 1m or 4h)`}},
		{"duration in words", "wait: 4 hours", []string{`f.yaml:1:7: wait: "4 hours" is not a duration (want such as 30s, 1m or 4h)`}},
		{"negative duration", "wait: -1s", []string{"f.yaml:1:7: wait: a duration cannot be negative"}},
		{"time in words", "until: tomorrow", []string{`f.yaml:1:8: until: "tomorrow" ` + aTime}},
		{"time without an offset", "until: 2026-11-22T17:00:00", []string{`f.yaml:1:8: until: "2026-11-22T17:00:00" ` + aTime}},
		{"day alone", "until: 2026-11-22", []string{`f.yaml:1:8: until: "2026-11-22" ` + aTime}},
		{"time with a space", "until: 2026-11-22 17:00:00Z", []string{`f.yaml:1:8: until: "2026-11-22 17:00:00Z" ` + aTime}},
		{"no such day", "until: 2026-02-30T17:00:00Z", []string{`f.yaml:1:8: until: "2026-02-30T17:00:00Z" ` + aTime}},
		{"own text refused", "paint: {colour: green}", []string{"f.yaml:1:17: paint.colour: want red or blue"}},
		{"value or mapping refused", "paint: green", []string{"f.yaml:1:8: paint: want red or blue"}},

		{"duplicate key", "text: a\nflag: true\ntext: b", []string{`f.yaml:3:1: "text" is already set at line 1`}},
		{"duplicate key in a map", "labels: {a: b, 'a': c}", []string{`f.yaml:1:16: labels: "a" is already set at line 1`}},
		{"anchor", "text: &a x", []string{"f.yaml:1:7: text: anchors (&name) are not allowed"}},
		{"anchor and alias", "text: &a x\nlist: [*a]", []string{
			"f.yaml:1:7: text: anchors (&name) are not allowed",
			"f.yaml:2:8: list[0]: aliases (*name) are not allowed: write the value out",
		}},
		{"alias to nothing", "text: x\nlist: [é, *b]", []string{"f.yaml:2:11: unknown anchor 'b' referenced"}},
		{"anchor on a key", "&a text: x", []string{"f.yaml:1:1: anchors (&name) are not allowed"}},
		{"merge key", "maybe:\n  <<: {name: x}", []string{"f.yaml:2:3: maybe: merge keys (<<) are not allowed: write the values out"}},
		{"tag", "text: !!str 1", []string{"f.yaml:1:7: text: tags (!name) are not allowed"}},
		{"binary", "text: !!binary aGk=", []string{"f.yaml:1:7: text: tags (!name) are not allowed"}},
		{"list as a key", "[a]: x", []string{"f.yaml:1:1: a key must be text, got a list"}},
		{"mapping as a key", "labels: {? {a: b} : c}", []string{"f.yaml:1:12: labels: a key must be text, got a mapping"}},
		{"no key", "labels:\n  ~: c", []string{"f.yaml:2:3: labels: a key is missing before the colon"}},
		{"known to make the library panic", "<<: {? [b] : 2}\n? [a]\n: 1", []string{
			"f.yaml:1:1: merge keys (<<) are not allowed: write the values out",
			"f.yaml:2:3: a key must be text, got a list",
		}},

		{"empty", "", []string{"f.yaml:1:1: the file is empty"}},
		{"comments alone", "# nothing\n\n---\n", []string{"f.yaml:1:1: the file is empty"}},
		{"second document", "text: a\n---\ntext: b", []string{"f.yaml:2:1: a second document starts here: a file holds one"}},
		{"empty second document", "text: a\n---\n", []string{"f.yaml:2:1: a second document starts here: a file holds one"}},
		{"bad syntax", "text: a\nlist: [b\n", []string{"f.yaml:2:1: did not find expected ',' or ']'"}},
		{"bad indentation", "text: a\nmaybe:\n  name: x\n wait: 1s\n", []string{"f.yaml:4:1: did not find expected key (is this line, or one before it, indented like its neighbours?)"}},
		{"two colons", "text: a\nflag: b: c\n", []string{"f.yaml:2:1: a key that can't be here (is the line indented like its neighbours, and does a text with a colon stand in quotes?)"}},
		{"bad syntax in the first line", "text: [", []string{"f.yaml:1:1: did not find expected node content"}},
		{"tab", "items:\n\t- name: x", []string{"f.yaml:2:1: a tab: YAML is indented with spaces"}},
		{"not UTF-8", "text: a\nlist: [é\xff]", []string{"f.yaml:2:9: the file is not UTF-8 text"}},
		{"UTF-16", "\xff\xfet\x00", []string{"f.yaml:1:1: the file is not UTF-8 text"}},
		{"NUL", "text: a\x00b", []string{"f.yaml:1:8: control character U+0000"}},
		{"too large", "text: " + strings.Repeat("x", strictyaml.MaxSize), []string{"f.yaml: the file is larger than 8 MiB"}},

		{"everything at once", "txt: 1\nflag: maybe\nitems:\n  - {name: [x], wait: long}\n  - 5\ncolour: green\n", []string{
			`f.yaml:1:1: unknown field "txt" (did you mean "text"? known: ` + known + `)`,
			`f.yaml:2:7: flag: want true or false without quotes, got "maybe"`,
			"f.yaml:4:12: items[0].name: want a single value, got a list",
			`f.yaml:4:23: items[0].wait: "long" is not a duration (want such as 30s, 1m or 4h)`,
			"f.yaml:5:5: items[1]: want a mapping (key: value), got a single value",
			"f.yaml:6:9: colour: want red or blue",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := strictyaml.Decode("f.yaml", []byte(tt.data), new(config))
			if diff := cmp.Diff(tt.want, lines(err)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDefaultsStay(t *testing.T) {
	got := config{Text: "default", Port: 5432, List: []string{"a", "b"}, Paint: paint{Colour: "red", Coats: 2}}
	if _, err := strictyaml.Decode("f.yaml", []byte("text: set\nlist: [c]\npaint: {coats: 3}\n"), &got); err != nil {
		t.Fatal(err)
	}
	want := config{Text: "set", Port: 5432, List: []string{"c"}, Paint: paint{Colour: "red", Coats: 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDocument(t *testing.T) {
	var c config
	doc, err := strictyaml.Decode("f.yaml", []byte("text: x\nitems:\n  - name: a\n  - name: b\n    wait: long\nlabels:\n  a.b: c\n"), &c)
	if err == nil || doc == nil {
		t.Fatalf("got document %v and error %v, want both", doc, err)
	}
	if diff := cmp.Diff([]inner{{Name: "a"}, {Name: "b"}}, c.Items); diff != "" {
		t.Errorf("what is right was not decoded (-want +got):\n%s", diff)
	}
	for _, tt := range []struct {
		path, want string
		sound      bool
	}{
		{"", "f.yaml:1:1: no", true},
		{"text", "f.yaml:1:7: text: no", true},
		{"items[1].name", "f.yaml:4:11: items[1].name: no", true},
		{"items[1].wait", "f.yaml:5:11: items[1].wait: no", false},
		{"items[0].wait", "f.yaml:3:5: items[0].wait: no", true},
		{"items[7].name", "f.yaml:3:3: items[7].name: no", true},
		{`labels["a.b"]`, `f.yaml:7:8: labels["a.b"]: no`, true},
		{`labels["x.y"]`, `f.yaml:7:3: labels["x.y"]: no`, true},
		{"count", "f.yaml:1:1: count: no", true},
	} {
		if got := doc.Problem(tt.path, "no").String(); got != tt.want {
			t.Errorf("problem at %q: got %s, want %s", tt.path, got, tt.want)
		}
		if got := doc.Sound(tt.path); got != tt.sound {
			t.Errorf("sound at %q: got %v, want %v", tt.path, got, tt.sound)
		}
	}
	if got, want := doc.Position("items[0]"), "f.yaml:3:5"; got != want {
		t.Errorf("position: got %s, want %s", got, want)
	}
}

func TestProblems(t *testing.T) {
	if err := (strictyaml.Problems{}).Err(); err != nil {
		t.Errorf("no problem: got error %v", err)
	}
	err := strictyaml.Problems{
		{File: "b", Message: "first of b"},
		{File: "a", Line: 10, Column: 1, Path: "x", Message: "last of a"},
		{File: "a", Line: 9, Column: 2, Path: "x", Message: "middle\nof a\x1b[2J"},
		{File: "a", Line: 9, Column: 1, Path: "y", Message: "first of a"},
	}.Err()
	want := []string{"a:9:1: y: first of a", "a:9:2: x: middle of a [2J", "a:10:1: x: last of a", "b: first of b"}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	var many strictyaml.Problems
	for i := range 250 {
		many = append(many, strictyaml.Problem{File: "f", Line: i + 1, Column: 1, Message: "no"})
	}
	got := lines(many)
	if len(got) != 101 || got[100] != "and 150 more problems" {
		t.Errorf("got %d lines that end in %q, want 101 and the number that is left out", len(got), got[len(got)-1])
	}
}

// TestSecretsStayOut: what is wrong with a text that may be a secret is said without the text.
func TestSecretsStayOut(t *testing.T) {
	_, err := strictyaml.Decode("f.yaml", []byte("colour: hunter2\ntext: !x hunter2\npaint: hunter2\n"), new(config))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v, want an error without the value", err)
	}
}

// TestWrongKindOfFile: a file that is wrong throughout is given up, not reported in full.
func TestWrongKindOfFile(t *testing.T) {
	for name, data := range map[string]string{
		"keys":  "labels: {" + strings.Repeat("a,", 100_000) + "}",
		"items": "items: [" + strings.Repeat("a,", 100_000) + "]",
	} {
		var problems strictyaml.Problems
		if _, err := strictyaml.Decode("f.yaml", []byte(data), new(config)); !errors.As(err, &problems) || len(problems) != 1000 {
			t.Errorf("%s: got %d problems, want 1000", name, len(problems))
		}
	}
}

func TestBlank(t *testing.T) {
	for data, want := range map[string]bool{
		"": true, "\n \t\r\n": true, "# x\n": true, "---\n# x\n...\n": true, "\ufeff# x": true,
		"a": false, "a: b": false, "# x\na: b": false, "--- a": false, "[]": false,
	} {
		if got := strictyaml.Blank([]byte(data)); got != want {
			t.Errorf("Blank(%q) = %v, want %v", data, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"users", "groups", "integration", "databases", "until"}
	for word, want := range map[string]string{
		"user": "users", "Users": "users", "databse": "databases", "untill": "until", "intergation": "integration",
		"from": "", "": "", strings.Repeat("users", 20): "",
	} {
		got, ok := strictyaml.Nearest(word, known)
		if got != want || ok != (want != "") {
			t.Errorf("Nearest(%q) = %q, %v, want %q", word, got, ok, want)
		}
	}
}

// FuzzDecode: no input makes Decode panic, every refusal says where, on one line, and what is taken is what the YAML
// library itself makes of the file, as text.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("text: a\nlist: [b, c]\nitems:\n  - {name: d, wait: 1s}\nlabels: {e: f}\npaint: {colour: red}\n"))
	f.Add([]byte("flag: true\ncount: -1\nport: 1\nsmall: 2\nuntil: 2026-11-22T18:00:00+01:00\nmaybe: {name: x}\nnumber: 3\ncolour: blue\npaint: red"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return // takes long and shows nothing that a shorter file does not
		}
		var c config
		doc, err := strictyaml.Decode("f.yaml", data, &c)
		if err == nil {
			if doc == nil || strictyaml.Blank(data) {
				t.Fatalf("decoded %q to document %v", data, doc)
			}
			checkAsText(t, data, c)
			return
		}
		var problems strictyaml.Problems
		if !errors.As(err, &problems) || len(problems) == 0 || len(problems) > 1100 {
			t.Fatalf("got error %#v, want Problems", err)
		}
		lines := 1 + strings.Count(lineEnds.Replace(string(data)), "\n")
		for _, p := range problems {
			if p.File != "f.yaml" || p.Line < 1 || p.Line > lines || p.Column < 1 || p.Column > len(data)+1 || p.Message == "" || strings.ContainsAny(p.String(), "\n\r\x00") {
				t.Errorf("bad problem %#v in %d lines", p, lines)
			}
			if doc == nil {
				continue
			}
			if again := doc.Problem(p.Path, "x"); again.Line < 1 || again.Line > lines || again.Path != p.Path {
				t.Errorf("the document places %q at %+v", p.Path, again)
			}
		}
	})
}

// lineEnds are all that end a line in YAML.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")

// plain is config with all values as text.
type plain struct {
	Text, Flag, Count, Port, Small, Wait, Until, Number, Colour string

	List   []string
	Items  []struct{ Name, Wait string }
	Labels map[string]string
	Maybe  *struct{ Name, Wait string }
	Paint  any
}

// checkAsText holds what was decoded against what the library decodes.
func checkAsText(t *testing.T, data []byte, c config) {
	t.Helper()
	var p plain
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("%q was taken, but is %v", data, err)
	}
	number := func(text string, got int64) bool { return text == "" && got == 0 || text == strconv.FormatInt(got, 10) }
	switch {
	case c.Text != p.Text || string(c.Colour) != p.Colour || c.Flag != (p.Flag == "true"),
		!number(p.Count, int64(c.Count)) || !number(p.Port, int64(c.Port)) || !number(p.Small, int64(c.Small)),
		(c.Number == nil) != (p.Number == "") || c.Number != nil && !number(p.Number, int64(*c.Number)),
		!slices.Equal(c.List, p.List) || !maps.Equal(c.Labels, p.Labels) || len(c.Items) != len(p.Items),
		(c.Maybe == nil) != (p.Maybe == nil) || c.Maybe != nil && c.Maybe.Name != p.Maybe.Name,
		c.Hidden != "" || c.Never != "":
		t.Fatalf("%q was decoded to %+v, want %+v", data, c, p)
	}
	for i, item := range c.Items {
		if wait, _ := time.ParseDuration(p.Items[i].Wait); item.Name != p.Items[i].Name || item.Wait != wait {
			t.Fatalf("%q was decoded to %+v, want %+v", data, item, p.Items[i])
		}
	}
	if until, err := time.Parse(time.RFC3339, p.Until); err == nil && !until.Equal(c.Until) || err != nil && p.Until != "" {
		t.Fatalf("%q became %v", p.Until, c.Until)
	}
}

func BenchmarkDecode(b *testing.B) {
	var data strings.Builder
	data.WriteString("items:\n")
	for i := range 10_000 {
		fmt.Fprintf(&data, "  - name: item-%d\n    wait: %ds\n", i, i)
	}
	b.SetBytes(int64(data.Len()))
	for b.Loop() {
		var c config
		if _, err := strictyaml.Decode("f.yaml", []byte(data.String()), &c); err != nil {
			b.Fatal(err)
		}
	}
}

func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}
