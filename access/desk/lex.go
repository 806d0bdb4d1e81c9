package desk

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
)

// A token is one word of a statement.
type token struct {
	text   string // without quotes
	quoted bool   // as a string or a name, so that it is no key word
	param  int    // of $n; 0 for anything else
	comma  bool
}

const (
	// maxTokens and maxToken bound a statement. A reason that is too long is said to be, so it may be read.
	maxTokens = 200
	maxParam  = 50
)

// lex takes a statement apart: words, strings in single quotes, names in double quotes, $n and commas; comments and white
// space between them.
func lex(sql string) ([]token, error) {
	if !utf8.ValidString(sql) {
		return nil, syntax("the statement is not UTF-8 text")
	}
	var tokens []token
	for rest := skipSpace(sql); rest != ""; rest = skipSpace(rest) {
		var t token
		var err error
		if t, rest, err = next(rest); err != nil {
			return nil, err
		}
		if tokens = append(tokens, t); len(tokens) > maxTokens {
			return nil, syntax("the statement has more than %d words", maxTokens)
		}
	}
	return tokens, nil
}

func next(s string) (t token, rest string, err error) {
	switch s[0] {
	case ',':
		return token{comma: true, text: ","}, s[1:], nil
	case '\'', '"':
		text, rest, ok := quoted(s)
		if !ok {
			return t, "", syntax("a quote without its other half")
		}
		return token{text: text, quoted: true}, rest, nil
	case '$':
		end := 1
		for end < len(s) && s[end] >= '0' && s[end] <= '9' {
			t.param = min(t.param*10+int(s[end]-'0'), maxParam+1)
			end++
		}
		if t.param < 1 || t.param > maxParam {
			return t, "", syntax("want $1 to $%d", maxParam)
		}
		t.text = s[:end]
		return t, s[end:], nil
	}
	end := 0
	for end < len(s) {
		r, size := utf8.DecodeRuneInString(s[end:])
		if !wordRune(r) || strings.HasPrefix(s[end:], "--") || strings.HasPrefix(s[end:], "/*") {
			break
		}
		end += size
	}
	if end == 0 {
		r, _ := utf8.DecodeRuneInString(s)
		return t, "", syntax("syntax error at %q", string(r))
	}
	return token{text: s[:end]}, s[end:], nil
}

// wordRune reports whether r can be in a word without quotes: names of integrations, people and sessions can be.
func wordRune(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("_-./@:+", r) || r > 0x7f
}

// quoted cuts a literal off s, in which a doubled quote stands for one.
func quoted(s string) (text, rest string, ok bool) {
	q := s[0]
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != q:
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == q:
			b.WriteByte(q)
			i++
		default:
			return b.String(), s[i+1:], true
		}
	}
	return "", "", false
}

// skipSpace skips white space and comments. One that does not end runs to the end, as nothing could follow it.
func skipSpace(s string) string {
	for {
		s = strings.TrimLeft(s, " \t\n\r\f\v;")
		switch {
		case strings.HasPrefix(s, "--"):
			_, s, _ = strings.Cut(s, "\n")
		case strings.HasPrefix(s, "/*"):
			_, s, _ = strings.Cut(s, "*/")
		default:
			return s
		}
	}
}

// Error is what a client is told: the fields of an ErrorResponse.
type Error struct{ Code, Message, Detail, Hint string }

func (e *Error) Error() string { return e.Message }

func syntax(format string, args ...any) *Error {
	return &Error{Code: pgerrcode.SyntaxError, Message: fmt.Sprintf(format, args...), Hint: "HELP; shows the statements."}
}
