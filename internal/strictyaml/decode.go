package strictyaml

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
)

// A decoder fills Go values from nodes and collects the problems on its way.
type decoder struct {
	doc      *Document
	fields   map[reflect.Type][]field
	problems Problems
}

// A field is a struct field that a file may set.
type field struct {
	name     string
	index    int
	mistaken bool // nobody should set it; its type says what to write instead
}

// full reports whether there is no point in going on.
func (d *decoder) full() bool { return len(d.problems) >= maxProblems }

// report adds a problem that stands at n.
func (d *decoder) report(path string, n *yaml.Node, message string) {
	at := d.doc.of(n)
	d.problems = append(d.problems, Problem{File: d.doc.file, Line: at.line, Column: at.column, Path: path, Message: message})
}

// reject reports the value at path, which stays undecoded.
func (d *decoder) reject(path string, n *yaml.Node, message string) {
	d.doc.unsound[path] = true
	d.report(path, n, message)
}

// value decodes n into out, which is settable.
func (d *decoder) value(path string, n *yaml.Node, out reflect.Value) {
	d.doc.places[path] = d.doc.of(n)
	if message := unwanted(n); message != "" {
		d.reject(path, n, message)
		return
	}
	for out.Kind() == reflect.Pointer {
		out.Set(reflect.New(out.Type().Elem()))
		out = out.Elem()
	}
	switch {
	case n.Kind == yaml.MappingNode && out.Kind() == reflect.Struct && len(d.fieldsOf(out.Type())) > 0:
		d.structure(path, n, out)
	case n.Kind == yaml.MappingNode && out.Kind() == reflect.Map && out.Type().Key().Kind() == reflect.String:
		d.table(path, n, out)
	case n.Kind == yaml.SequenceNode && out.Kind() == reflect.Slice:
		d.list(path, n, out)
	case n.Kind == yaml.ScalarNode:
		d.scalar(path, n, out)
	default:
		d.reject(path, n, fmt.Sprintf("%s, got %s", d.want(out), got(n)))
	}
}

// unwanted returns what is wrong with any value of this form, or "".
func unwanted(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.AliasNode:
		return "aliases (*name) are not allowed: write the value out"
	case n.Anchor != "":
		return "anchors (&name) are not allowed"
	case n.Style&yaml.TaggedStyle != 0:
		return "tags (!name) are not allowed"
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == "":
		return "no value given: leave the key out, or write [] for an empty list"
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return fmt.Sprintf("no value given: %s means nothing (put it in quotes if you mean the text)", n.Value)
	}
	return ""
}

func (d *decoder) structure(path string, n *yaml.Node, out reflect.Value) {
	fields := d.fieldsOf(out.Type())
	d.eachPair(path, n, func(name string, key, value *yaml.Node) {
		for _, f := range fields {
			if f.name == name {
				d.value(Join(path, name), value, out.Field(f.index))
				return
			}
		}
		d.unknownField(path, key, name, fields)
	})
}

func (d *decoder) table(path string, n *yaml.Node, out reflect.Value) {
	out.Set(reflect.MakeMapWithSize(out.Type(), len(n.Content)/2))
	d.eachPair(path, n, func(name string, _, value *yaml.Node) {
		v := reflect.New(out.Type().Elem()).Elem()
		d.value(Join(path, name), value, v)
		out.SetMapIndex(reflect.ValueOf(name).Convert(out.Type().Key()), v)
	})
}

func (d *decoder) list(path string, n *yaml.Node, out reflect.Value) {
	out.Set(reflect.MakeSlice(out.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		if d.full() {
			out.SetLen(i)
			d.doc.unsound[path] = true
			return
		}
		d.value(fmt.Sprintf("%s[%d]", path, i), item, out.Index(i))
	}
}

// eachPair calls f for each key of a mapping whose form is right and that was not there before.
func (d *decoder) eachPair(path string, n *yaml.Node, f func(name string, key, value *yaml.Node)) {
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content) && !d.full(); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if message := unwantedKey(key); message != "" {
			d.report(path, key, message)
			continue
		}
		if first := seen[key.Value]; first != nil {
			d.report(path, key, fmt.Sprintf("%s is already set at line %d", quote(key.Value), first.Line))
			continue
		}
		seen[key.Value] = key
		f(key.Value, key, value)
	}
}

func unwantedKey(key *yaml.Node) string {
	switch {
	case key.Kind == yaml.MappingNode || key.Kind == yaml.SequenceNode:
		return "a key must be text, got " + got(key)
	case key.Tag == "!!merge" && key.Style&yaml.TaggedStyle == 0:
		return "merge keys (<<) are not allowed: write the values out"
	case key.Kind == yaml.ScalarNode && key.Tag == "!!null" && key.Anchor == "":
		return "a key is missing before the colon"
	}
	return unwanted(key)
}

func (d *decoder) unknownField(path string, key *yaml.Node, name string, fields []field) {
	var known []string
	for _, f := range fields {
		if !f.mistaken {
			known = append(known, f.name)
		}
	}
	suggestion := "known: " + strings.Join(known, ", ")
	if near, ok := Nearest(name, known); ok {
		suggestion = fmt.Sprintf("did you mean %q? %s", near, suggestion)
	}
	d.report(path, key, "unknown field "+quote(name))
	d.problems[len(d.problems)-1].Suggestion = suggestion
}

// fieldsOf returns the fields of struct type t that have a yaml tag.
func (d *decoder) fieldsOf(t reflect.Type) []field {
	if fields, ok := d.fields[t]; ok {
		return fields
	}
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if f.IsExported() && name != "" && name != "-" {
			fields = append(fields, field{name, i, option == "mistaken"})
		}
	}
	d.fields[t] = fields
	return fields
}

// Join appends a key to a path; a key that would not read as one is quoted.
func Join(path, key string) string {
	switch {
	case strings.ContainsFunc(key, needsQuotes) || key == "":
		return fmt.Sprintf("%s[%q]", path, key)
	case path == "":
		return key
	}
	return path + "." + key
}

func needsQuotes(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
}

// want says in words what may be written for out.
func (d *decoder) want(out reflect.Value) string {
	_, text := out.Addr().Interface().(encoding.TextUnmarshaler)
	switch kind := out.Kind(); {
	case kind == reflect.Struct && len(d.fieldsOf(out.Type())) > 0 && text:
		return "want a mapping or a single value"
	case kind == reflect.Struct && len(d.fieldsOf(out.Type())) > 0:
		return "want a mapping (key: value)"
	case text:
		return "want a single value"
	case kind == reflect.Map:
		return "want a mapping (key: value)"
	case kind == reflect.Slice:
		return "want a list ([a, b], or a line for each that starts with -)"
	}
	return "want a single value"
}

func got(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}
