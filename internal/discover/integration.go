package discover

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hourgate/hourgate/internal/upstream"
	"github.com/hourgate/hourgate/secrets"
)

// missingNow is why nobody is let in on a server that the last answer did not have. It stays for one more answer, because
// sources forget servers for a moment.
const missingNow = "it was missing from the last answer"

// Integration is one server that was found. It is immutable once handed out.
type Integration struct {
	ID   string // the server's own identity; what it is told apart by, whatever it is called
	Name string // unique; what people and policies call it
	// NameTags are the tags that Name was made from. Whoever can set them chooses the name, so a grant may count on the name
	// only if the policy trusts them.
	NameTags []string
	Labels   map[string]Label
	Place    Place
	// Identifier is what the source calls the server.
	Identifier string
	Engine     string // with its version, as far as it is known

	Writer         Server
	Readers        []Server
	Database       string
	SSLMode        upstream.SSLMode
	SSLRootCert    string
	SSLNegotiation upstream.SSLNegotiation
	Secret         secrets.Config // zero where NotReady says why

	// NotReady says why nobody can be let in now. "" where nothing is known against it.
	NotReady string

	created time.Time // of the server; who is older goes first when two want the same name
}

// Label is the value of a label, and the tags that it was made from.
type Label struct {
	Value string
	Tags  []string // none: the configuration alone says what it is
}

// Place is where something was found or could not be asked for.
type Place struct {
	Source  string // aws_rds or file
	Account string // AWS account, "" where it is the gate's own and nothing has told its number yet
	Region  string // AWS region; "" for files
	Kind    Kind
	File    string // path, for files
}

// Kind is what was asked for.
type Kind string

// The kinds.
const (
	Instances Kind = "instances" // DB instances
	Clusters  Kind = "clusters"  // DB clusters
	List      Kind = "list"      // the list in a file
)

// String names the place for people.
func (p Place) String() string {
	if p.File != "" {
		return "file " + p.File
	}
	return strings.TrimSpace(strings.Join([]string{"aws_rds", cmp.Or(p.Account, "own account"), p.Region, string(p.Kind)}, " "))
}

// home is where a name belongs to: an account and region, or a file.
func (p Place) home() string {
	p.Kind = ""
	return p.String()
}

// LeftOut is a server that is no integration.
type LeftOut struct {
	Place      Place
	Identifier string
	Why        string
}

// Status is how asking went at one place.
type Status struct {
	Place Place
	Asked time.Time // when it last answered; zero if never
	Found int       // servers in its last answer
	Err   error     // why the last try failed; nil when it worked
}

// Report is everything that is known at one moment.
type Report struct {
	Integrations []Integration // by name
	LeftOut      []LeftOut
	Status       []Status
}

func (i *Integration) equal(o *Integration) bool {
	return i.ID == o.ID && i.Name == o.Name && slices.Equal(i.NameTags, o.NameTags) && i.Place == o.Place &&
		i.Identifier == o.Identifier && i.Engine == o.Engine && i.Writer == o.Writer && slices.Equal(i.Readers, o.Readers) &&
		i.Database == o.Database && i.SSLMode == o.SSLMode && i.SSLRootCert == o.SSLRootCert && i.SSLNegotiation == o.SSLNegotiation &&
		i.NotReady == o.NotReady && reflect.DeepEqual(i.Secret, o.Secret) &&
		maps.EqualFunc(i.Labels, o.Labels, func(a, b Label) bool { return a.Value == b.Value && slices.Equal(a.Tags, b.Tags) })
}
