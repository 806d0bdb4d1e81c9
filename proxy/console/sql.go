package console

import (
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/hourgate/hourgate/internal/strangers"
)

// splitStatements splits a text at its semicolons, as PostgreSQL's own lexer would, and leaves out what is empty: white
// space and comments.
func splitStatements(text string) []string {
	var statements []string
	for text != "" {
		end, empty := statementEnd(text)
		if !empty {
			statements = append(statements, strings.TrimSpace(text[:end]))
		}
		text = text[min(end+1, len(text)):]
	}
	return statements
}

// statementEnd is where the first statement in a text ends: at a semicolon that is in no literal, quoted name or comment, or
// at the end. empty says that there is nothing to run.
func statementEnd(text string) (end int, empty bool) {
	empty = true
	for i := 0; i < len(text); {
		n := 1
		switch c := text[i]; {
		case c == ';':
			return i, empty
		case c == ' ' || c >= '\t' && c <= '\r':
			i++
			continue
		case isComment(text[i:]):
			i += commentLength(text[i:])
			continue
		case c == '\'':
			n = quotedLength(text[i:], i > 0 && (text[i-1] == 'e' || text[i-1] == 'E') && (i == 1 || !isWord(text[i-2])))
		case c == '"':
			n = quotedLength(text[i:], false)
		case c == '$' && (i == 0 || !isWord(text[i-1])):
			n = dollarLength(text[i:])
		}
		empty = false
		i += n
	}
	return len(text), empty
}

// isWord reports that a byte may be part of a name.
func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// commentLength is the length of the comment that text begins with. Those between /* and */ nest.
func commentLength(text string) int {
	if text[0] == '-' {
		if end := strings.IndexByte(text, '\n'); end >= 0 {
			return end
		}
		return len(text)
	}
	depth := 0
	for i := 0; i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], "/*"):
			depth++
			i++
		case strings.HasPrefix(text[i:], "*/"):
			i++
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(text)
}

// quotedLength is the length of the literal or name that text begins with. A quote that is doubled does not end it, nor does
// one behind a backslash if those escape.
func quotedLength(text string, backslash bool) int {
	for i := 1; i < len(text); i++ {
		switch {
		case backslash && text[i] == '\\':
			i++
		case text[i] != text[0]:
		case i+1 < len(text) && text[i+1] == text[0]:
			i++
		default:
			return i + 1
		}
	}
	return len(text)
}

// dollarLength is the length of the dollar-quoted literal that text begins with, or 1.
func dollarLength(text string) int {
	end := 1
	for end < len(text) && isWord(text[end]) && (end > 1 || text[end] < '0' || text[end] > '9') {
		end++
	}
	if end == len(text) || text[end] != '$' {
		return 1
	}
	tag := text[:end+1]
	if body := strings.Index(text[len(tag):], tag); body >= 0 {
		return len(tag) + body + len(tag)
	}
	return len(text)
}

// A chore is a statement that clients send by themselves and that means nothing here, with its answer.
type chore struct {
	Description
	Result
	do func() error // what it changes in the session; an error is a *Error
}

// housekeeping knows chores. own says that sql is one.
func (c *Conn) housekeeping(sql string) (t chore, own bool) {
	words := wordsOf(sql)
	if len(words) == 0 {
		return t, false
	}
	has := func(i int, word string) bool { return len(words) > i && words[i] == word }
	t.do = func() error { return nil }
	switch t.Tag = words[0]; words[0] {
	case "BEGIN", "START":
		if words[0] == "START" {
			t.Tag = "START TRANSACTION"
		}
		t.do = c.becomes('T')
	case "COMMIT", "END":
		switch {
		case words[0] == "END" && len(words) > 1 && !has(1, "WORK") && !has(1, "TRANSACTION") && !has(1, "AND"):
			return t, false // END 17 is a statement about a request
		case has(1, "PREPARED"):
			return t, false
		}
		t.Tag, t.do = "COMMIT", c.becomes('I')
		if c.status == 'E' {
			t.Tag = "ROLLBACK"
		}
	case "ROLLBACK", "ABORT":
		switch {
		case has(1, "PREPARED"):
			return t, false
		case has(1, "TO"), has(2, "TO"):
			t.do = c.inBlock("ROLLBACK TO SAVEPOINT", 'T')
		default:
			t.do = c.becomes('I')
		}
		t.Tag = "ROLLBACK"
	case "SAVEPOINT":
		t.do = c.inBlock("SAVEPOINT", 'T')
	case "RELEASE":
		t.do = c.inBlock("RELEASE SAVEPOINT", 'T')
	case "SET", "RESET":
	case "DEALLOCATE":
		t.Tag, t.do = c.forgets(sql, words)
	case "DISCARD":
		t.Tag = strings.Join(words, " ")
		if has(1, "ALL") {
			t.do = func() error { c.deallocateAll(); return nil }
		}
	case "SHOW":
		name := strings.ToLower(strings.Join(words[1:], "_"))
		value, known := setting(name)
		if !known {
			return t, false
		}
		t.Columns, t.Rows = []string{name}, [][]*string{{&value}}
	default:
		return t, false
	}
	return t, true
}

// becomes keeps the transaction's status as a client expects it.
func (c *Conn) becomes(status byte) func() error {
	return func() error { c.status = status; return nil }
}

// inBlock is becomes for what PostgreSQL takes in transactions only.
func (c *Conn) inBlock(what string, status byte) func() error {
	return func() error {
		if c.status == 'I' {
			return &Error{Code: pgerrcode.NoActiveSQLTransaction, Message: what + " can only be used in transaction blocks"}
		}
		c.status = status
		return nil
	}
}

// forgets is DEALLOCATE, of a name or of all. Names keep their case in quotes only.
func (c *Conn) forgets(sql string, words []string) (tag string, do func() error) {
	if words[len(words)-1] == "ALL" {
		return "DEALLOCATE ALL", func() error { c.deallocateAll(); return nil }
	}
	name := strings.ToLower(words[len(words)-1])
	if begin := strings.IndexByte(sql, '"'); begin >= 0 {
		quoted := sql[begin : begin+quotedLength(sql[begin:], false)]
		name = strings.ReplaceAll(strings.Trim(quoted, `"`), `""`, `"`)
	}
	return "DEALLOCATE", func() error {
		if !c.deallocate(name) {
			return &Error{Code: pgerrcode.InvalidSQLStatementName, Message: fmt.Sprintf("prepared statement %q does not exist", strangers.Printable(name))}
		}
		return nil
	}
}

// wordsOf cuts a statement at white space and comments, in capitals. What is quoted is cut too: chores have nothing in quotes
// that matters here.
func wordsOf(sql string) []string {
	var words []string
	for i := 0; i < len(sql); {
		switch c := sql[i]; {
		case c == ' ' || c >= '\t' && c <= '\r':
			i++
		case isComment(sql[i:]):
			i += commentLength(sql[i:])
		default:
			end := i
			for end < len(sql) && sql[end] > ' ' && !isComment(sql[end:]) {
				end++
			}
			words = append(words, strings.ToUpper(sql[i:max(end, i+1)]))
			i = max(end, i+1)
		}
	}
	return words
}

func isComment(text string) bool {
	return strings.HasPrefix(text, "--") || strings.HasPrefix(text, "/*")
}

// setting is what SHOW answers.
func setting(name string) (value string, known bool) {
	switch name {
	case "transaction_isolation_level", "transaction_isolation":
		return "read committed", true
	case "transaction_read_only":
		return "off", true
	}
	for _, p := range parameters {
		if strings.EqualFold(p.Name, name) {
			return p.Value, true
		}
	}
	return "", false
}
