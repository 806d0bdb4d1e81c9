package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hourgate/hourgate/internal/strictyaml"
)

// Known is what is known of integrations besides their default databases. The zero value: nothing, and that there are no
// others.
type Known struct {
	Labels   map[string]Labels   // by the integration's name
	Readers  map[string]bool     // those that have readers, by name
	NameTags map[string][]string // the tags that the name was made from, by the name; none: the configuration says it

	// Open says that integrations come and go while the gate runs. A name that none has is then no mistake.
	Open bool
}

// Labels are what grants and flows may choose an integration by, by key.
type Labels map[string]Label

// Label is a value and the tags that it was made from. Without tags the configuration says it, and it is believed.
type Label struct {
	Value string
	Tags  []string
}

// Whoever may tag a server in AWS could grant with it, if tags were believed. So the policy says which it believes, in
// trusted_tags, and everything else that was made from a tag counts for nothing: neither a label, nor a name.

func (c *checker) checkTrusted(f decoded) {
	c.checkList(f.doc, "trusted_tags", f.TrustedTags, func(doc *strictyaml.Document, path, tag string) {
		switch {
		case tag == "" || len(tag) > 128:
			c.report(doc, path, "want the key of a tag")
		case strings.ContainsAny(tag, "*?"):
			c.report(doc, path, "want the key of a tag: patterns are not understood here")
		}
		c.trusted[tag] = true
	})
}

// distrusted returns the first tag of a list that the policy does not trust, or "".
func (c *checker) distrusted(tags []string) string {
	for _, tag := range tags {
		if !c.trusted[tag] {
			return tag
		}
	}
	return ""
}

// claimed returns the integrations that are called so by a tag that is not trusted. Their names must not stand in the way of
// others: whoever can tag a server of a sandbox would have people of both led there who want a production database of that
// name.
func (c *checker) claimed() map[string]bool {
	names := make(map[string]bool)
	for name, tags := range c.known.NameTags {
		if c.distrusted(tags) != "" {
			names[name] = true
		}
	}
	return names
}

// integration looks up what a grant or flow calls by its name. absent says, of a name that is no mistake, why it means
// nothing now.
func (c *checker) integration(name string) (database string, known bool, absent string) {
	database, known = c.integrations[name]
	if tag := c.distrusted(c.known.NameTags[name]); tag != "" {
		return "", false, fmt.Sprintf("integration %s does not count by its name, which its tag %s says: trusted_tags does not have that tag", name, tag)
	}
	if !known && c.known.Open {
		return "", false, "there is no integration " + name + " now"
	}
	return database, known, ""
}

// chosen returns the integrations that have all of the labels, sorted.
func (c *checker) chosen(labels map[string]string) []string {
	var names []string
	for name := range c.integrations {
		if c.has(name, labels) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *checker) has(integration string, labels map[string]string) bool {
	for key, value := range labels {
		label, ok := c.known.Labels[integration][key]
		if !ok || label.Value != value || c.distrusted(label.Tags) != "" {
			return false
		}
	}
	return true
}

// checkLabels checks labels that choose integrations; one that is tied to nothing would choose all.
func (c *checker) checkLabels(doc *strictyaml.Document, path string, labels map[string]string) {
	if labels != nil && len(labels) == 0 && doc.Sound(path) {
		c.report(doc, path, "empty: that would be every integration")
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		c.checkName(doc, strictyaml.Join(path, key), key)
		if labels[key] == "" && doc.Sound(strictyaml.Join(path, key)) {
			c.report(doc, strictyaml.Join(path, key), "required: the label's value")
		}
	}
}

// resolved returns the grants that a written one stands for: itself, one for each integration that its labels choose, or
// none, which is noted. Those of labels are called grant@integration, so that each has a name of its own.
func (c *checker) resolved(g *Grant) []*Grant {
	if g.Labels == nil {
		if _, known, absent := c.integration(g.Integration); !known {
			if absent != "" { // otherwise there is a warning
				c.notes = append(c.notes, fmt.Sprintf("grant %s: %s", g.Name, absent))
			}
			return nil
		}
		return []*Grant{g}
	}
	var grants []*Grant
	for _, name := range c.chosen(g.Labels) {
		one := *g
		one.Name, one.Integration, one.Labels = g.Name+"@"+name, name, nil
		if one.Databases == nil {
			one.Databases = []string{c.integrations[name]}
		}
		grants = append(grants, &one)
	}
	if grants == nil {
		c.notes = append(c.notes, fmt.Sprintf("grant %s: no integration has its labels now", g.Name))
	}
	return grants
}

// resolve makes a flow's targets name the integrations that they mean now.
func (c *checker) resolve(f *Flow) {
	for i := range f.Targets {
		t := &f.Targets[i]
		var names []string
		for _, name := range t.Integrations {
			if _, known, absent := c.integration(name); known {
				names = append(names, name)
			} else if absent != "" {
				c.notes = append(c.notes, fmt.Sprintf("flow %s: %s", f.Name, absent))
			}
		}
		if t.Labels != nil {
			names = append(names, c.chosen(t.Labels)...)
			if len(names) == 0 {
				c.notes = append(c.notes, fmt.Sprintf("flow %s: no integration has the labels of target %d now", f.Name, i+1))
			}
		}
		slices.Sort(names)
		t.Integrations = slices.Compact(names)
	}
}
