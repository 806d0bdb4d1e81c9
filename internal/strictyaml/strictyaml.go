package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// MaxSize is the size in bytes of the largest file that Decode reads. A parsed file takes thirty times its size and
// more, and a file that grew by accident must not take the process and its sessions with it.
const MaxSize = 8 << 20

// maxProblems is where Decode stops: a file of the wrong kind can have a problem every other byte.
const maxProblems = 1000

// A Document knows where in its file each value stands, so that checks that come after decoding can say so too.
type Document struct {
	file    string
	lines   int
	places  map[string]place
	unsound map[string]bool
}

type place struct{ line, column int }

// Decode decodes data, the content of file, into the struct that into points to. The name of the file is only used in
// problems. What the file does not set keeps its value, so that into may hold defaults; a list in the file replaces the
// one in into. The error is nil or [Problems] with everything that is wrong, up to about a thousand problems.
//
// When only values are wrong, the rest of the file is decoded and the Document is returned as well, so that the caller
// can add its own problems; [Document.Sound] tells which values to leave alone. When the file is no YAML at all, the
// Document is nil.
func Decode(file string, data []byte, into any) (*Document, error) {
	root, problem := parse(data)
	if problem != nil {
		problem.File = file
		return nil, Problems{*problem}
	}
	d := &decoder{
		doc:    &Document{file: file, lines: countLines(data), places: map[string]place{}, unsound: map[string]bool{}},
		fields: map[reflect.Type][]field{},
	}
	d.value("", root, reflect.ValueOf(into).Elem())
	return d.doc, d.problems.Err()
}

// Blank reports whether data has nothing but white space, comments and document markers. Decode refuses such a file;
// a caller for whom it is fine asks first.
func Blank(data []byte) bool {
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		line = bytes.TrimSpace(line)
		marker := string(line) == "---" || string(line) == "..."
		if len(line) > 0 && line[0] != '#' && !marker {
			return false
		}
	}
	return true
}

// Problem returns a problem with the value at path, such as grants[0].until, placed where the value stands, or where
// the nearest value around it stands when it is absent.
func (d *Document) Problem(path, message string) Problem {
	at := d.place(path)
	return Problem{File: d.file, Line: at.line, Column: at.column, Path: path, Message: message}
}

// Adopt returns problems that were found in the value at path by itself, with their paths and places in the document.
func (d *Document) Adopt(path string, found Problems) Problems {
	adopted := make(Problems, 0, len(found))
	for _, p := range found {
		at := path
		if p.Path != "" {
			at += "." + p.Path
		}
		placed := d.Problem(at, p.Message)
		placed.Suggestion = p.Suggestion
		adopted = append(adopted, placed)
	}
	return adopted
}

// Position returns the place of the value at path, or of the nearest value around it, as file:line:column.
func (d *Document) Position(path string) string {
	at := d.place(path)
	return fmt.Sprintf("%s:%d:%d", d.file, at.line, at.column)
}

// Sound reports whether the value at path was absent or decoded. It is false when Decode already reported it, so that
// a check need not complain about the zero value that it finds in its stead.
func (d *Document) Sound(path string) bool { return !d.unsound[path] }

// Line is the line at which the value at path stands, or the nearest value around it.
func (d *Document) Line(path string) int { return d.place(path).line }

// Has reports whether there is a value at path, sound or not.
func (d *Document) Has(path string) bool {
	_, ok := d.places[path]
	return ok
}

// lineEnds are all that end a line in YAML.
var lineEnds = regexp.MustCompile("\r\n|[\n\r\u0085\u2028\u2029]")

func countLines(data []byte) int { return 1 + len(lineEnds.FindAllIndex(data, -1)) }

// of is where a node stands. The library puts one that is not there, at the end of a file without a last line end, into a
// line behind it.
func (d *Document) of(n *yaml.Node) place { return place{min(n.Line, d.lines), n.Column} }

func (d *Document) place(path string) place {
	for {
		if at, ok := d.places[path]; ok || path == "" {
			return at
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// parse returns the node of the only document in data.
func parse(data []byte) (*yaml.Node, *Problem) {
	if len(data) > MaxSize {
		return nil, &Problem{Message: fmt.Sprintf("the file is larger than %d MiB", MaxSize>>20)}
	}
	if p := checkText(data); p != nil {
		return nil, p
	}
	if Blank(data) {
		return nil, &Problem{Line: 1, Column: 1, Message: "the file is empty"}
	}
	first, second, err := readNodes(data)
	switch {
	case err != nil:
		return nil, syntaxProblem(data, err)
	case second != nil:
		return nil, &Problem{Line: second.Line, Column: second.Column, Message: "a second document starts here: a file holds one"}
	case len(first.Content) != 1:
		return nil, &Problem{Line: 1, Column: 1, Message: "the file is empty"}
	}
	return first.Content[0], nil
}

// checkText finds what the YAML library would report without a place: bytes that are not UTF-8, and control characters.
func checkText(data []byte) *Problem {
	line, start := 1, 0
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		column := func() int { return utf8.RuneCount(data[start:i]) + 1 }
		switch {
		case r == utf8.RuneError && size == 1:
			return &Problem{Line: line, Column: column(), Message: "the file is not UTF-8 text"}
		case r == '\n':
			line, start = line+1, i+1
		case r < ' ' && r != '\t' && r != '\r' || r == 0x7f:
			return &Problem{Line: line, Column: column(), Message: fmt.Sprintf("control character %U", r)}
		}
		i += size
	}
	return nil
}

// readNodes returns the first document and, if there is one, the second.
func readNodes(data []byte) (first, second *yaml.Node, err error) {
	// The library is old and no longer kept: a malformed file that makes it panic must not end the process, which
	// reads files again while people are connected.
	defer func() {
		if r := recover(); r != nil {
			first, second, err = nil, nil, fmt.Errorf("yaml: not understood (%v)", r)
		}
	}()
	first, second = new(yaml.Node), new(yaml.Node)
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(first); err != nil {
		return nil, nil, err
	}
	switch err := decoder.Decode(second); {
	case errors.Is(err, io.EOF):
		return first, nil, nil
	case err != nil:
		return nil, nil, err
	}
	return first, second, nil
}

var (
	syntaxError = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)
	// countsFromZero matches the errors whose line the library counts from 0; it counts the others' from 1.
	countsFromZero = regexp.MustCompile(`^did not find expected (node content|key|'-' indicator|',' or|<)`)
	unknownAnchor  = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// explainSyntax says what people have most often done when the library complains in its own words.
func explainSyntax(data []byte, p *Problem) {
	lines := bytes.Split(data, []byte("\n"))
	for i := range min(p.Line+1, len(lines)) { // the library complains at the line, or at the next
		indent := lines[i][:len(lines[i])-len(bytes.TrimLeft(lines[i], " \t"))]
		if tab := bytes.IndexByte(indent, '\t'); tab >= 0 && i+2 >= p.Line {
			p.Line, p.Column, p.Message = i+1, tab+1, "a tab: YAML is indented with spaces"
			return
		}
	}
	switch {
	case strings.HasPrefix(p.Message, "mapping values are not allowed"):
		p.Message, p.Suggestion = "a key that can't be here", "is the line indented like its neighbours, and does a text with a colon stand in quotes?"
	case strings.HasPrefix(p.Message, "did not find expected key"), strings.HasPrefix(p.Message, "did not find expected '-' indicator"),
		strings.HasPrefix(p.Message, "could not find expected ':'"):
		p.Suggestion = "is this line, or one before it, indented like its neighbours?"
	}
}

// syntaxProblem places the library's error, which has a line at best.
func syntaxProblem(data []byte, err error) *Problem {
	p := &Problem{Line: 1, Column: 1, Message: err.Error()}
	if m := syntaxError.FindStringSubmatch(p.Message); m != nil {
		p.Message = m[2]
		if line, err := strconv.Atoi(m[1]); err == nil {
			if countsFromZero.MatchString(p.Message) {
				line++
			}
			lastLine := bytes.Count(bytes.TrimRight(data, "\r\n"), []byte("\n")) + 1
			p.Line = min(line, lastLine)
		}
	}
	explainSyntax(data, p)
	if m := unknownAnchor.FindStringSubmatch(p.Message); m != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+m[1]))
		p.Line = bytes.Count(before, []byte("\n")) + 1
		p.Column = utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	}
	return p
}
