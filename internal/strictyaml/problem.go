package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// maxListed bounds the text of an error, which goes to a log line: a file of the wrong kind can have a problem a line.
const maxListed = 100

// A Problem is one thing that is wrong in a file. One that was found in settings by themselves has a Path within them, and
// no place yet: Document.Adopt gives it one.
type Problem struct {
	File       string `json:"file"`
	Line       int    `json:"line,omitempty"`   // from 1; 0 when the problem is with the file as a whole
	Column     int    `json:"column,omitempty"` // from 1, in characters
	Path       string `json:"path,omitempty"`   // such as grants[0].until; empty for the document itself
	Message    string `json:"message"`
	Suggestion string `json:"suggestion,omitempty"` // what to write or do instead
}

// String returns the problem on one line, as file:line:column: path: message, without the parts that are not set.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.File != "" {
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	if p.Suggestion != "" {
		b.WriteString(" (" + p.Suggestion + ")")
	}
	return strings.Map(printable, b.String())
}

// printable keeps what a file says from breaking the line that reports it, or the terminal that shows it.
func printable(r rune) rune {
	if !unicode.IsGraphic(r) {
		return ' '
	}
	return r
}

// Problems is everything that is wrong, as an error.
type Problems []Problem

// Error returns the problems, one a line, the first hundred of them.
func (ps Problems) Error() string {
	lines := make([]string, 0, min(len(ps), maxListed)+1)
	for i, p := range ps {
		if i == maxListed {
			lines = append(lines, fmt.Sprintf("and %d more problems", len(ps)-maxListed))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// Err returns nil when there is no problem, and otherwise the problems sorted by file and place, as a new Problems.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return Problems(slices.SortedStableFunc(slices.Values(ps), byPlace))
}

func byPlace(a, b Problem) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Column, b.Column),
		cmp.Compare(a.Path, b.Path),
		cmp.Compare(a.Message, b.Message),
	)
}
