package audit_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/audit"
)

var update = flag.Bool("update", false, "write docs/trail.md anew")

// docs/trail.md lists all events and fields, in the words of record.go.
func TestReference(t *testing.T) {
	t.Parallel()
	const file = "../docs/trail.md"
	before := string(contents(t, file))
	after := section(t, before, "events", eventTable(t))
	after = section(t, after, "fields", fieldTable(t))
	if after == before {
		return
	}
	if !*update {
		t.Fatal("docs/trail.md is not what audit/record.go says: run go test ./audit -run TestReference -update")
	}
	if err := os.WriteFile(file, []byte(after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// section puts a table between a marker and the next heading, or the end.
func section(t *testing.T, page, name, table string) string {
	t.Helper()
	marker := "<!-- " + name + " -->\n"
	start, rest, ok := strings.Cut(page, marker)
	if !ok {
		t.Fatalf("docs/trail.md has no %s", marker)
	}
	_, next, more := strings.Cut(rest, "\n## ")
	page = start + marker + "\n" + table
	if more {
		page += "\n## " + next
	}
	return page
}

func parseRecord(t *testing.T) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "record.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func words(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if text := strings.Join(strings.Fields(g.Text()), " "); text != "" {
			return strings.ReplaceAll(text, "|", "\\|")
		}
	}
	return ""
}

func eventTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| event | what |\n|---|---|\n")
	ast.Inspect(parseRecord(t), func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || fmt.Sprint(spec.Type) != "Event" || len(spec.Values) != 1 {
			return true
		}
		literal := spec.Values[0].(*ast.BasicLit)
		fmt.Fprintf(&b, "| `%s` | %s |\n", strings.Trim(literal.Value, `"`), words(spec.Comment))
		return true
	})
	return b.String()
}

var jsonName = regexp.MustCompile(`json:"(\w+)`)

var recordType = reflect.TypeFor[audit.Record]()

func fieldTable(t *testing.T) string {
	t.Helper()
	structs := map[string]*ast.StructType{}
	docs := map[string]string{}
	ast.Inspect(parseRecord(t), func(n ast.Node) bool {
		if decl, ok := n.(*ast.GenDecl); ok && decl.Tok == token.TYPE {
			spec := decl.Specs[0].(*ast.TypeSpec)
			if s, ok := spec.Type.(*ast.StructType); ok {
				structs[spec.Name.Name], docs[spec.Name.Name] = s, words(decl.Doc)
			}
		}
		return true
	})
	var b strings.Builder
	fields(&b, structs, docs, "Record")
	return b.String()
}

// fields writes the fields of a struct, and those of the structs in it, each under what is said about the struct.
func fields(b *strings.Builder, structs map[string]*ast.StructType, docs map[string]string, name string) {
	heading := false
	for _, f := range structs[name].Fields.List {
		if len(f.Names) == 0 {
			if heading {
				b.WriteString("\n")
			}
			fields(b, structs, docs, fmt.Sprint(f.Type))
			heading = false
			continue
		}
		if !heading {
			if name != "Record" {
				fmt.Fprintf(b, "%s\n\n", docs[name])
			}
			b.WriteString("| field | type | what |\n|---|---|---|\n")
			heading = true
		}
		tag := jsonName.FindStringSubmatch(f.Tag.Value)
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", tag[1], jsonType(f.Names[0].Name), words(f.Comment, f.Doc))
	}
	if heading {
		b.WriteString("\n")
	}
}

func jsonType(field string) string {
	f, _ := recordType.FieldByName(field)
	switch f.Type.String() {
	case "time.Time":
		return "time"
	case "[]uint8":
		return "base64"
	case "[]string":
		return "strings"
	case "[]audit.Parameter":
		return "values"
	case "map[string]string":
		return "object"
	}
	switch f.Type.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	}
	return "number"
}
