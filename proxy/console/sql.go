package console

import "strings"

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
		case strings.HasPrefix(text[i:], "--"), strings.HasPrefix(text[i:], "/*"):
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

// housekeeping answers statements that clients send by themselves and that mean nothing here. own says that this is one.
func (c *Conn) housekeeping(sql string) (d Description, r Result, own bool) {
	words := strings.Fields(strings.ToUpper(sql))
	if len(words) == 0 {
		return d, r, false
	}
	switch words[0] {
	case "BEGIN":
		r.Tag = "BEGIN"
	case "START":
		r.Tag = "START TRANSACTION"
	case "COMMIT", "END":
		if words[0] == "END" && len(words) > 1 && words[1] != "WORK" && words[1] != "TRANSACTION" && words[1] != "AND" {
			return d, r, false // END 17 is a statement about a request
		}
		r.Tag = "COMMIT"
		if c.status == 'E' {
			r.Tag = "ROLLBACK"
		}
	case "ROLLBACK", "ABORT":
		r.Tag = "ROLLBACK"
	case "SET", "RESET", "DEALLOCATE", "DISCARD", "SAVEPOINT", "RELEASE":
		r.Tag = words[0]
		if words[0] == "DISCARD" && len(words) > 1 {
			r.Tag += " " + words[1]
		}
	case "SHOW":
		name := strings.ToLower(strings.Join(words[1:], "_"))
		value, known := setting(name)
		if !known {
			return d, r, false
		}
		d.Columns, r.Tag, r.Rows = []string{name}, "SHOW", [][]*string{{&value}}
	default:
		return d, r, false
	}
	return d, r, true
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

// follow keeps the transaction's status as a client expects it after a statement of this tag.
func (c *Conn) follow(tag string) {
	switch tag {
	case "BEGIN", "START TRANSACTION":
		c.status = 'T'
	case "COMMIT", "ROLLBACK":
		c.status = 'I'
	}
}
