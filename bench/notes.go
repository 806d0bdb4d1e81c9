//go:build linux

package main

import (
	_ "embed"
	"strings"
)

// notes are what people have written to the figures: what they mean, and why a goal is missed. A section of the report ends
// with what is under its heading here.
//
//go:embed notes.md
var notes string

// note ends a section of the report, if there is one.
func (d *report) note(section string) {
	if strings.Contains(d.String(), "## "+section) {
		d.WriteString(noteOf(d.notes, section))
	}
}

// noteOf finds what a section's heading is followed by, up to the next heading.
func noteOf(notes, section string) string {
	_, after, found := strings.Cut("\n"+notes, "\n## "+section+"\n")
	if !found {
		return ""
	}
	text, _, _ := strings.Cut(after, "\n## ")
	if text = strings.TrimSpace(text); text == "" {
		return ""
	}
	return text + "\n\n"
}
