package policy

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// maxName is the length of the longest name in bytes: PostgreSQL cuts longer ones (NAMEDATALEN), to names that may be
// somebody else's.
const maxName = 63

// grantName keeps the name of a grant safe wherever it appears: the trail, the logs, a role's comment.
var grantName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// requestGrant is how the grants of approved requests are named.
var requestGrant = regexp.MustCompile(`^request-[0-9]+$`)

// A checker validates decoded files and collects the problems of all of them.
type checker struct {
	integrations map[string]string
	known        Known
	trusted      map[string]bool   // tags
	notes        []string          // what is no mistake but means nothing now
	users        map[string]string // name → position of the first user with it
	grants       map[string]string
	groups       map[string]string // those that are declared
	flows        map[string]string
	operators    string            // position of the first
	declared     map[string]*Group // by name
	members      map[string]bool   // the groups that have a member or are declared
	member       membership        // once all users and groups are known
	partial      bool              // some users could not be read, so that nobody can be called unknown
	suggestions  int               // how often didYouMean looked
	problems     strictyaml.Problems
	unknown      strictyaml.Problems // names that mean nothing, and other
	warnings     strictyaml.Problems // things that are no reason to refuse a policy
}

// decoded is a policy file with the places of its values.
type decoded struct {
	content
	doc    *strictyaml.Document // nil if it is no YAML
	source Source
}

func newChecker(integrations map[string]string) *checker {
	return &checker{
		integrations: integrations,
		trusted:      map[string]bool{},
		users:        map[string]string{},
		grants:       map[string]string{},
		groups:       map[string]string{},
		flows:        map[string]string{},
		declared:     map[string]*Group{},
		members:      map[string]bool{},
	}
}

// decode returns false for a file that is no YAML.
func (c *checker) decode(s Source) (decoded, bool) {
	f := decoded{source: s}
	if strictyaml.Blank(s.Data) {
		c.problems = append(c.problems, strictyaml.Problem{File: s.File, Line: 1, Column: 1, Message: emptyFile})
		c.partial = true
		return f, false
	}
	doc, err := strictyaml.Decode(s.File, s.Data, &f.content)
	var problems strictyaml.Problems
	if errors.As(err, &problems) {
		c.problems = append(c.problems, problems...)
	}
	if doc == nil || !doc.Sound("") || !doc.Sound("users") || !doc.Sound("groups") {
		c.partial = true
	}
	f.doc = doc
	if doc != nil && !f.says() && len(problems) == 0 {
		c.report(doc, "", emptyFile)
	}
	return f, doc != nil
}

// emptyFile is what a file gets that says nothing. Whoever writes a file anew empties it first, and who reads it in that
// moment must not take everybody's access away.
const emptyFile = "the file is empty: write users: [] if it is to give nobody anything"

// says reports whether a file has any key at all.
func (f *decoded) says() bool {
	for _, key := range []string{"users", "groups", "operators", "grants", "access_flows", "trusted_tags"} {
		if f.doc.Has(key) {
			return true
		}
	}
	return false
}

func (c *checker) report(doc *strictyaml.Document, path, format string, args ...any) {
	c.problems = append(c.problems, doc.Problem(path, fmt.Sprintf(format, args...)))
}

// unknownName warns, and suggests a known name that is like it. Where the policy is refused for another reason it is said
// too, since it may well be the cause.
func (c *checker) unknownName(doc *strictyaml.Document, path, format, name string, known iter.Seq[string]) {
	p := doc.Problem(path, fmt.Sprintf(format, shorten(name)))
	p.Suggestion = c.didYouMean(name, known)
	c.unknown = append(c.unknown, p)
}

func (c *checker) warn(doc *strictyaml.Document, path, format string, args ...any) {
	c.warnings = append(c.warnings, doc.Problem(path, fmt.Sprintf(format, args...)))
}

func (c *checker) checkUsers(f decoded) {
	for i, u := range f.Users {
		path := fmt.Sprintf("users[%d]", i)
		if !f.doc.Sound(path) {
			c.partial = true
			continue
		}
		c.partial = c.partial || u.Name == "" || !f.doc.Sound(path+".groups")
		c.checkName(f.doc, path+".name", u.Name)
		c.checkUnique(f.doc, path+".name", "user", u.Name, c.users)
		c.checkList(f.doc, path+".groups", u.Groups, c.checkName)
		c.checkIdentity(f.doc, path, u)
		for _, group := range u.Groups {
			c.members[group] = true
		}
	}
}

// checkIdentity warns of a user who could never log in.
func (c *checker) checkIdentity(doc *strictyaml.Document, path string, u *User) {
	if u.SCRAM.IsZero() && u.Certificate == "" && !u.Disabled && doc.Sound(path+".scram") && doc.Sound(path+".certificate") {
		c.warn(doc, path, "can never log in: there is neither scram (see hourgate passwd) nor certificate; write disabled: true if that is meant")
	}
}

func (c *checker) checkGrants(f decoded) {
	for i, g := range f.Grants {
		path := fmt.Sprintf("grants[%d]", i)
		if !f.doc.Sound(path) {
			continue
		}
		c.checkGrantName(f.doc, path+".name", g.Name)
		c.checkUnique(f.doc, path+".name", "grant", g.Name, c.grants)
		c.checkHolders(f.doc, path, g)
		c.checkTarget(f.doc, path, g)
		c.checkAccess(f.doc, path+".access", &g.Access)
		c.checkKeep(f.doc, path, g)
		c.checkLimits(f.doc, path, g)
		c.checkTimes(f.doc, path, g)
	}
}

func (c *checker) checkGrantName(doc *strictyaml.Document, path, name string) {
	switch {
	case !doc.Sound(path):
	case name == "":
		c.report(doc, path, "required")
	case !grantName.MatchString(name):
		c.report(doc, path, "want at most %d letters, digits, dots, dashes and underscores, and a letter or digit first, got %q", maxName, shorten(name))
	case requestGrant.MatchString(name):
		c.report(doc, path, "%s is the name of a grant that was asked for: want another", name)
	}
}

// checkHolders checks who is to have the grant.
func (c *checker) checkHolders(doc *strictyaml.Document, path string, g *Grant) {
	if len(g.Users)+len(g.Groups) == 0 && doc.Sound(path+".users") && doc.Sound(path+".groups") {
		c.report(doc, path, "users or groups required: the grant is nobody's")
	}
	c.checkList(doc, path+".users", g.Users, c.checkKnownUser)
	c.checkList(doc, path+".groups", g.Groups, c.checkKnownGroup)
}

// checkKnownUser warns of a user who does not exist. It is no mistake: who is taken out of the users has gone, and that must
// count at once, wherever else the name still stands.
func (c *checker) checkKnownUser(doc *strictyaml.Document, path, name string) {
	if _, ok := c.users[name]; !ok && !c.partial {
		c.unknownName(doc, path, "unknown user %q", name, maps.Keys(c.users))
	}
}

func (c *checker) checkKnownGroup(doc *strictyaml.Document, path, name string) {
	if !c.members[name] && !c.partial {
		c.unknownName(doc, path, "unknown group %q: no user is in it", name, maps.Keys(c.members))
	}
}

// checkTarget checks what the grant is for, and fills in the integration's database where none is named.
func (c *checker) checkTarget(doc *strictyaml.Document, path string, g *Grant) {
	standard, known, absent := c.integration(g.Integration)
	c.checkLabels(doc, path+".labels", g.Labels)
	switch {
	case !doc.Sound(path+".integration") || !doc.Sound(path+".labels"):
	case g.Integration != "" && g.Labels != nil:
		c.report(doc, path+".labels", "has no meaning beside integration: want one of them")
	case g.Labels != nil:
	case g.Integration == "":
		c.report(doc, path+".integration", "required")
	case absent != "":
	case !known:
		c.unknownName(doc, path+".integration", unknownIntegration, g.Integration, maps.Keys(c.integrations))
	case g.Databases == nil && standard == "":
		c.report(doc, path+".databases", "required: the integration has no database of its own")
	case g.Databases == nil && doc.Sound(path+".databases"):
		g.Databases = []string{standard}
	}
	if g.Databases != nil && len(g.Databases) == 0 {
		c.report(doc, path+".databases", "empty: leave the key out for the integration's database")
	}
	c.checkList(doc, path+".databases", g.Databases, c.checkDatabase)
}

// unknownIntegration is a warning: integrations come and go, and a grant waits for its own.
const unknownIntegration = "unknown integration %q"

func (c *checker) checkDatabase(doc *strictyaml.Document, path, name string) {
	c.checkName(doc, path, name)
	if strings.Contains(name, "/") {
		c.report(doc, path, "a database with a / in its name cannot be asked for, because / stands between integration and database")
	}
}

func (c *checker) checkTimes(doc *strictyaml.Document, path string, g *Grant) {
	switch {
	case !doc.Sound(path+".until") || !doc.Sound(path+".from"):
	case g.Until.IsZero():
		c.report(doc, path+".until", "required: there is no indefinite access")
	case !g.From.Before(g.Until):
		c.report(doc, path+".until", "must be after from")
	}
}

// checkName checks a name of which the outside world gives the form. Characters that cannot be seen are refused
// because they make two names look like one.
func (c *checker) checkName(doc *strictyaml.Document, path, name string) {
	hidden := strings.IndexFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) })
	switch {
	case !doc.Sound(path):
	case name == "":
		c.report(doc, path, "required")
	case len(name) > maxName:
		c.report(doc, path, "longer than %d bytes", maxName)
	case hidden >= 0:
		c.report(doc, path, "%q has a character that cannot be seen", name)
	case strings.TrimSpace(name) != name:
		c.report(doc, path, "%q starts or ends with a space", name)
	}
}

// checkUnique reports the second of two equal names, with the place of the first, which it notes.
func (c *checker) checkUnique(doc *strictyaml.Document, path, what, name string, first map[string]string) {
	if name == "" {
		return
	}
	if at, ok := first[name]; ok {
		c.report(doc, path, "%s %q is already at %s", what, shorten(name), at)
		return
	}
	first[name] = doc.Position(path)
}

// checkList checks each of values and reports those that are there twice.
func (c *checker) checkList(doc *strictyaml.Document, path string, values []string, check func(doc *strictyaml.Document, path, value string)) {
	seen := make(map[string]bool, len(values))
	for i, value := range values {
		item := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case !doc.Sound(item):
		case seen[value]:
			c.report(doc, item, "%q is in the list twice", shorten(value))
		default:
			seen[value] = true
			check(doc, item, value)
		}
	}
}

// maxSuggestions bounds the search for similar names: each takes a look at all of them, and a file of users that was
// left out makes thousands unknown.
const maxSuggestions = 20

func (c *checker) didYouMean(name string, known iter.Seq[string]) string {
	c.suggestions++
	if c.suggestions > maxSuggestions {
		return ""
	}
	if near, ok := strictyaml.Nearest(name, slices.Sorted(known)); ok {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// shorten keeps text that others chose from filling a line: the longest name that means anything fits.
func shorten(text string) string {
	if len(text) <= maxName+1 {
		return text
	}
	return text[:maxName+1] + "…"
}
