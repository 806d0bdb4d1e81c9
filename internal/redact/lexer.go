package redact

import "bytes"

// lexer splits SQL as PostgreSQL's scan.l does, as far as it takes to tell strings from the rest. Two things it can't
// know from the text alone, so that they are fields.
type lexer struct {
	text []byte
	at   int

	escapes bool // a backslash escapes in plain strings too: standard_conforming_strings is off
	wide    bool // a backslash after a byte of 0x80 or more is half of a character: an encoding such as SJIS
}

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenString // its span is what is between the quotes
	tokenSemicolon
	tokenOther // anything else, quoted names too
)

type token struct {
	kind tokenKind
	span
}

// next returns the next token, white space and comments left out.
func (l *lexer) next() token {
	l.skip()
	from := l.at
	switch c := l.peek(0); {
	case from >= len(l.text):
		return token{kind: tokenEnd}
	case c == '\'':
		return l.quoted(1, l.escapes)
	case (c|0x20 == 'e') && l.peek(1) == '\'':
		return l.quoted(2, true)
	case (c|0x20 == 'b' || c|0x20 == 'x' || c|0x20 == 'n') && l.peek(1) == '\'':
		return l.quoted(2, l.escapes && c|0x20 == 'n')
	case (c|0x20 == 'u') && l.peek(1) == '&' && l.peek(2) == '\'':
		return l.quoted(3, false)
	case (c|0x20 == 'u') && l.peek(1) == '&' && l.peek(2) == '"':
		return l.name(3)
	case c == '"':
		return l.name(1)
	case c == '$':
		return l.dollar()
	case startsWord(c):
		for l.at++; l.at < len(l.text) && inWord(l.text[l.at]); l.at++ {
		}
		return token{tokenWord, span{from, l.at}}
	case c >= '0' && c <= '9':
		for l.at++; l.at < len(l.text) && inWord(l.text[l.at]); l.at++ {
		}
		return token{tokenOther, span{from, l.at}}
	case c == ';':
		l.at++
		return token{tokenSemicolon, span{from, l.at}}
	}
	l.at++
	return token{tokenOther, span{from, l.at}}
}

// peek returns a byte after the current place, 0 behind the end.
func (l *lexer) peek(n int) byte {
	if l.at+n < len(l.text) {
		return l.text[l.at+n]
	}
	return 0
}

func startsWord(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= 0x80
}

func inWord(c byte) bool { return startsWord(c) || c >= '0' && c <= '9' || c == '$' }

// skip goes over white space and comments.
func (l *lexer) skip() {
	for l.at < len(l.text) {
		switch c := l.text[l.at]; {
		case c == ' ' || c >= '\t' && c <= '\r':
			l.at++
		case c == '-' && l.peek(1) == '-':
			n := bytes.IndexAny(l.text[l.at:], "\n\r")
			if n < 0 {
				n = len(l.text) - l.at
			}
			l.at += n
		case c == '/' && l.peek(1) == '*':
			l.comment()
		default:
			return
		}
	}
}

// comment goes over a comment and those inside of it.
func (l *lexer) comment() {
	for depth := 0; l.at < len(l.text); {
		switch {
		case l.peek(0) == '/' && l.peek(1) == '*':
			depth++
			l.at += 2
		case l.peek(0) == '*' && l.peek(1) == '/':
			l.at += 2
			if depth--; depth == 0 {
				return
			}
		default:
			l.at++
		}
	}
}

// quoted reads a string whose opening, quote included, has n bytes. One that nobody closes ends with the text.
func (l *lexer) quoted(n int, escapes bool) token {
	l.at += n
	from := l.at
	for ; l.at < len(l.text); l.at++ {
		switch c := l.text[l.at]; {
		case c == '\\' && escapes && (!l.wide || l.text[l.at-1] < 0x80):
			l.at++
		case c == '\'' && l.peek(1) == '\'':
			l.at++
		case c == '\'':
			l.at++
			return token{tokenString, span{from, l.at - 1}}
		}
	}
	l.at = len(l.text)
	return token{tokenString, span{min(from, l.at), l.at}}
}

// name reads a quoted name whose opening has n bytes.
func (l *lexer) name(n int) token {
	from := l.at
	for l.at += n; l.at < len(l.text); l.at++ {
		if l.text[l.at] != '"' {
			continue
		}
		if l.peek(1) != '"' {
			l.at++
			return token{tokenOther, span{from, l.at}}
		}
		l.at++
	}
	l.at = len(l.text)
	return token{tokenOther, span{from, l.at}}
}

// dollar reads $$string$$, $tag$string$tag$, or a parameter such as $1.
func (l *lexer) dollar() token {
	end := l.at + 1
	if end < len(l.text) && startsWord(l.text[end]) {
		for end < len(l.text) && l.text[end] != '$' && inWord(l.text[end]) {
			end++
		}
	}
	if end >= len(l.text) || l.text[end] != '$' {
		l.at++
		return token{tokenOther, span{l.at - 1, l.at}}
	}
	tag := l.text[l.at : end+1]
	from := end + 1
	to := len(l.text)
	l.at = to
	if n := bytes.Index(l.text[from:], tag); n >= 0 {
		to = from + n
		l.at = to + len(tag)
	}
	return token{tokenString, span{from, to}}
}
