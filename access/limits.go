package access

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxReason is the length of the longest reason in bytes. It is in trails, notifications and terminals.
	maxReason = 1000
	// maxOpen is how many open requests one person may have: thousands would bury those of others.
	maxOpen = 20
	// maxAnHour is how many requests one person may file in an hour, withdrawn ones too: each is told to others.
	maxAnHour = 60
	// maxLock is the longest time of a lock; without a time it holds until it is lifted.
	maxLock = 366 * 24 * time.Hour
)

// spoken is what somebody gave as a reason: white space around it is none, and nothing but white space is no reason.
func spoken(reason string) string { return strings.TrimSpace(reason) }

// checkText refuses what would break a line, a terminal or a record, or is too long for them.
func checkText(what, text string, longest int) error {
	switch {
	case len(text) > longest:
		return refused("%s is too long: %d bytes, and at most %d are taken", what, len(text), longest)
	case !utf8.ValidString(text):
		return refused("%s is not UTF-8 text", what)
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		return &Refused{Message: fmt.Sprintf("%s has a character that cannot be seen (%U)", what, r), Hint: "Write it on one line, without control characters."}
	}
	return nil
}
