// Package redact takes passwords out of SQL text that is about to be written down. It is a courtesy to whoever types one,
// not a parser: what it is not sure of it leaves as it is, so that it can't hide what a statement does.
package redact

import "bytes"

// Mark stands where a password stood.
const Mark = "[redacted]"

// Passwords replaces the passwords that a tenant types: the string after the keyword PASSWORD in CREATE and ALTER of a
// ROLE, USER, GROUP or USER MAPPING. It returns text itself when there is none, which costs a search.
//
// What it does not find: passwords in the text of a DO block or function, in strings that are SQL or connection strings
// themselves (dblink, CREATE SUBSCRIPTION), and the rest of a plain string after \' while standard_conforming_strings is
// off. It is a courtesy to tenants, and must never become a way to hide what a statement does. So it replaces only what
// PostgreSQL takes for a string in every way it may read the text, in statements that can't run what is in a string.
//
// text must be a whole text: read from its middle, it may mean something else.
func Passwords(text []byte) (out []byte, redacted bool) {
	if !mentionsPassword(text) {
		return text, false
	}
	found := (&lexer{text: text}).passwords()
	if len(found) > 0 && bytes.IndexByte(text, '\\') >= 0 {
		for reading := 1; reading < 4; reading++ {
			l := lexer{text: text, escapes: reading&1 != 0, wide: reading&2 != 0}
			found = intersect(found, l.passwords())
		}
	}
	if len(found) == 0 {
		return text, false
	}
	done := 0
	for _, s := range found {
		out = append(append(out, text[done:s.from]...), Mark...)
		done = s.to
	}
	return append(out, text[done:]...), true
}

// mentionsPassword looks for the word in any case. It looks for its W first, the rarest of its letters in SQL.
func mentionsPassword(text []byte) bool {
	return hasPassword(text, 'w') || hasPassword(text, 'W')
}

func hasPassword(text []byte, w byte) bool {
	const word, before = "password", 4
	for at := before; at < len(text); at++ {
		i := bytes.IndexByte(text[at:], w)
		if i < 0 {
			return false
		}
		at += i
		if at+4 <= len(text) && text[at-1]|0x20 == 's' && isWord(text[at-before:at+4], word) {
			return true
		}
	}
	return false
}

// isWord compares with a word in lower-case ASCII letters, in any case.
func isWord(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		if b[i]|0x20 != word[i] {
			return false
		}
	}
	return true
}

// span is a part of a text.
type span struct{ from, to int }

// intersect returns what is in both lists. Both are in order.
func intersect(a, b []span) (both []span) {
	for len(a) > 0 && len(b) > 0 {
		if s := (span{max(a[0].from, b[0].from), min(a[0].to, b[0].to)}); s.from < s.to {
			both = append(both, s)
		}
		if a[0].to < b[0].to {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return both
}

// passwords finds the contents of password strings, quotes excluded.
func (l *lexer) passwords() (found []span) {
	var (
		words    = 0     // of this statement, so far
		verb     = false // the first is CREATE or ALTER
		role     = false // and the second is ROLE, USER or GROUP
		password = false // the token before was PASSWORD
	)
	for {
		tok := l.next()
		switch tok.kind {
		case tokenEnd:
			return found
		case tokenString:
			if password && tok.from < tok.to {
				found = append(found, tok.span)
			}
			continue // a string may be continued on the next line
		case tokenWord:
			word := l.text[tok.from:tok.to]
			verb = words == 0 && (isWord(word, "create") || isWord(word, "alter")) || words > 0 && verb
			role = words == 1 && verb && (isWord(word, "role") || isWord(word, "user") || isWord(word, "group")) || words > 1 && role
			password = role && isWord(word, "password")
			words++
		case tokenSemicolon:
			words, verb, role, password = 0, false, false, false
		default:
			password = false
			words++
		}
	}
}
