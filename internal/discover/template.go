package discover

import (
	"fmt"
	"slices"
	"strings"
)

// template is a text with places to fill in.
type template []part

// part is a text, or what to fill in: a tag, or one of the facts.
type part struct{ text, tag, fact string }

// facts are what a server is known by that no tag can change.
var facts = []string{"identifier", "account", "region", "engine"}

func parseTemplate(text string) (template, error) {
	var t template
	for text != "" {
		before, rest, open := strings.Cut(text, "{")
		if strings.Contains(before, "}") {
			return nil, fmt.Errorf("a } without its {")
		}
		if before != "" {
			t = append(t, part{text: before})
		}
		if !open {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		tag, isTag := strings.CutPrefix(name, "tag:")
		switch {
		case !closed:
			return nil, fmt.Errorf("a { without its }")
		case isTag && tag != "":
			t = append(t, part{tag: tag})
		case slices.Contains(facts, name):
			t = append(t, part{fact: name})
		default:
			return nil, fmt.Errorf("{%s} is unknown: want {tag:KEY}, {%s}", name, strings.Join(facts, "}, {"))
		}
		text = after
	}
	return t, nil
}

// fill returns the text and the tags that it was made from. missing is the first tag that d lacks, "" if none.
func (t template) fill(d *database) (text string, tags []string, missing string) {
	var b strings.Builder
	for _, p := range t {
		switch {
		case p.tag != "":
			value, ok := d.tags[p.tag]
			if !ok || value == "" {
				return "", nil, p.tag
			}
			b.WriteString(value)
			tags = append(tags, p.tag)
		case p.fact != "":
			b.WriteString(d.fact(p.fact))
		default:
			b.WriteString(p.text)
		}
	}
	return b.String(), tags, ""
}

// matches reports whether text is what pattern describes: * is any text, ? one character, everything else itself.
func matches(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	star, from := -1, 0 // the last *, and where what it stands for ends so far
	i, j := 0, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, from = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
