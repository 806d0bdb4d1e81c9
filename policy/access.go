package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Access is what a grant allows in its databases: a level, or any of named database roles and named objects.
type Access struct {
	// Level is set for a level, and then nothing else is but CreateIn.
	Level Level `yaml:"level"`
	// CreateIn are the existing schemas in which an ADMIN may create, besides a schema of its own.
	CreateIn []string `yaml:"create_in"`

	// Roles are existing database roles of which the person becomes a member.
	Roles []string `yaml:"roles"`
	// ActAs is the one of Roles as which sessions work from their first statement, or "". What they make belongs to it.
	ActAs string `yaml:"act_as"`
	// Dangerous lets Roles name roles that own objects or reach beyond their database.
	Dangerous bool `yaml:"dangerous"`

	// Objects, by schema.name or schema.*, and exactly these privileges on them.
	Tables    map[string][]Privilege `yaml:"tables"`
	Sequences map[string][]Privilege `yaml:"sequences"`
	Functions map[string][]Privilege `yaml:"functions"` // schema.name(argument types), or all of that name
}

// A Privilege is one that PostgreSQL can grant on an object, as it is written in GRANT.
type Privilege string

// The privileges. ALL is not among them: it means more with each major version. TRIGGER is not either: a trigger has no
// owner, so that one on somebody else's table outlives whoever made it.
const (
	Select     Privilege = "SELECT"
	Insert     Privilege = "INSERT"
	Update     Privilege = "UPDATE"
	Delete     Privilege = "DELETE"
	Truncate   Privilege = "TRUNCATE"
	References Privilege = "REFERENCES"
	Usage      Privilege = "USAGE"
	Execute    Privilege = "EXECUTE"
)

// Kinds of objects, which are the keys in an access.
const (
	kindTables    = "tables"
	kindSequences = "sequences"
	kindFunctions = "functions"
)

// privilegesOf says what each kind of object can have.
var privilegesOf = map[string][]Privilege{
	kindTables:    {Select, Insert, Update, Delete, Truncate, References},
	kindSequences: {Select, Usage, Update},
	kindFunctions: {Execute},
}

// An Object is one line of an access that names objects.
type Object struct {
	Kind       string // tables, sequences or functions
	Schema     string
	Name       string // "" for all in the schema
	Arguments  string // of a function: in parentheses as written, or "" for all of that name
	Privileges []Privilege
}

// UnmarshalText reads an access that is a level alone.
func (a *Access) UnmarshalText(text []byte) error { return a.Level.UnmarshalText(text) }

// Equal reports whether a and b allow the same.
func (a Access) Equal(b Access) bool {
	same := slices.Equal[[]Privilege]
	return a.Level == b.Level && a.Dangerous == b.Dangerous && a.ActAs == b.ActAs &&
		slices.Equal(a.CreateIn, b.CreateIn) && slices.Equal(a.Roles, b.Roles) &&
		maps.EqualFunc(a.Tables, b.Tables, same) && maps.EqualFunc(a.Sequences, b.Sequences, same) && maps.EqualFunc(a.Functions, b.Functions, same)
}

// Fingerprint is the same for equal accesses, and for no others.
func (a Access) Fingerprint() string {
	encoded, err := json.Marshal(a)
	if err != nil {
		panic("policy: an access that can't be encoded: " + err.Error()) // strings and a bool; can't happen
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:12])
}

// String is the access in a few words, for the trail.
func (a Access) String() string {
	var words []string
	switch {
	case len(a.CreateIn) > 0:
		return string(a.Level) + ", creating in " + strings.Join(a.CreateIn, ", ")
	case a.Level != "":
		return string(a.Level)
	case len(a.Roles) > 0:
		words = append(words, "roles "+strings.Join(a.Roles, ", "))
	}
	if a.ActAs != "" {
		words = append(words, "acting as "+a.ActAs)
	}
	for _, o := range a.Objects() {
		words = append(words, o.String())
	}
	return strings.Join(words, "; ")
}

// String is the object as GRANT would have it.
func (o Object) String() string {
	name := o.Name + o.Arguments
	if o.Name == "" {
		name = "*"
	}
	privileges := make([]string, len(o.Privileges))
	for i, p := range o.Privileges {
		privileges[i] = string(p)
	}
	return fmt.Sprintf("%s on %s.%s", strings.Join(privileges, ", "), o.Schema, name)
}

// Objects returns the objects that the access names, in a fixed order.
func (a Access) Objects() []Object {
	var objects []Object
	for _, kind := range []string{kindTables, kindSequences, kindFunctions} {
		named := a.named(kind)
		for _, name := range slices.Sorted(maps.Keys(named)) {
			if o, err := parseObject(kind, name); err == nil {
				o.Privileges = named[name]
				objects = append(objects, o)
			}
		}
	}
	return objects
}

func (a Access) named(kind string) map[string][]Privilege {
	return map[string]map[string][]Privilege{kindTables: a.Tables, kindSequences: a.Sequences, kindFunctions: a.Functions}[kind]
}

// Creates reports whether a session under the access may be able to make objects that outlive it: an ADMIN may, and what
// named roles may only the server knows.
func (a Access) Creates() bool { return a.Level == Admin || len(a.Roles) > 0 }

// rank orders accesses by how much they allow: named objects, then named roles, then the levels. Which of two sets of
// roles or objects allows more only the server could say, so they count as equal.
func (a Access) rank() int {
	if i := slices.Index(levels, a.Level); i >= 0 {
		return 2 + i
	}
	return min(len(a.Roles), 1)
}

// parseObject reads schema.name, schema.* and schema.name(arguments). A part in double quotes may hold dots, and is
// taken as it is, as everything is: names are not folded to lower case.
func parseObject(kind, text string) (Object, error) {
	o := Object{Kind: kind}
	var err error
	rest := text
	if o.Schema, rest, err = objectPart(rest); err != nil {
		return o, err
	}
	rest, dotted := strings.CutPrefix(rest, ".")
	if !dotted {
		return o, fmt.Errorf("want schema.name or schema.*, got %q", shorten(text))
	}
	if rest == "*" {
		return o, nil
	}
	if o.Name, rest, err = objectPart(rest); err != nil {
		return o, err
	}
	if kind == kindFunctions && strings.HasPrefix(rest, "(") && strings.HasSuffix(rest, ")") {
		o.Arguments, rest = rest, ""
	}
	if rest != "" {
		return o, fmt.Errorf("want schema.name or schema.*, got %q", shorten(text))
	}
	return o, nil
}

// objectPart cuts one name off text.
func objectPart(text string) (part, rest string, err error) {
	if quoted, ok := strings.CutPrefix(text, `"`); ok {
		part, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return "", "", fmt.Errorf("a quote without its other half in %q", shorten(text))
		}
	} else {
		end := strings.IndexAny(text+".", ".(")
		part, rest = text[:end], text[end:]
	}
	switch {
	case part == "":
		return "", "", fmt.Errorf("want schema.name or schema.*, got %q", shorten(text))
	case part == "*":
		return "", "", fmt.Errorf("a star stands for all names of one schema only, as in sales.*; for more, use a level")
	case len(part) > maxName:
		return "", "", fmt.Errorf("a name longer than %d bytes", maxName)
	case strings.HasPrefix(part, "pg_") || part == "information_schema":
		return "", "", fmt.Errorf("%s is PostgreSQL's own", part)
	}
	return part, rest, nil
}
