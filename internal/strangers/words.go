package strangers

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxClaim is how many bytes of a name that a client claims are recorded. PostgreSQL's own names are no longer.
const maxClaim = 63

// Claim is what a client says as it is recorded: control characters escaped as in a Go string, and cut with a mark. So it
// takes little room, and does nothing to the terminal of whoever reads it.
func Claim(s string) string {
	if len(s) <= maxClaim && printableText(s) {
		return s
	}
	part := s
	if len(part) > maxClaim {
		n := maxClaim
		for n > maxClaim-utf8.UTFMax && !utf8.RuneStart(s[n]) { // whole characters
			n--
		}
		part = part[:n]
	}
	if !printableText(part) {
		part = strings.TrimSuffix(strings.TrimPrefix(strconv.Quote(part), `"`), `"`)
	}
	if len(s) > maxClaim {
		part += fmt.Sprintf("… (%d bytes)", len(s))
	}
	return part
}

func printableText(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// Printable keeps a name that a stranger sent from forging lines or breaking the encoding of a message.
func Printable(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "?")
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	for len(s) > 63 { // an identifier's length; whole characters only
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}
