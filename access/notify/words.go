package notify

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hourgate/hourgate/access"
)

// event is a message as this package reads it again.
type event struct {
	Type string        `json:"type"`
	Data access.Notice `json:"data"`
}

func parseEvent(m access.Message) (event, error) {
	var e event
	return e, json.Unmarshal(m.Body, &e)
}

// maxSubject is the longest subject in characters. Mail has lines of 998 bytes at most, and the names of objects can be longer.
const maxSubject = 220

// subject is the event on one line that is not too long.
func (e event) subject() string {
	text := e.headline()
	if utf8.RuneCountInString(text) <= maxSubject {
		return text
	}
	return string([]rune(text)[:maxSubject-1]) + "…"
}

func (e event) headline() string {
	n := e.Data
	what := fmt.Sprintf("%s on %s", n.Access, n.Integration)
	if len(n.Databases) > 0 {
		what += "/" + strings.Join(n.Databases, ", /")
	}
	if n.BreakGlass {
		what += " by BREAK-GLASS"
	}
	switch e.Type {
	case "request_filed":
		return fmt.Sprintf("%s asks for %s for %s (request %d)", n.User, what, n.For, n.Request)
	case "request_seconded":
		return fmt.Sprintf("%s approved request %d of %s, and it needs others too", n.By, n.Request, n.User)
	case "request_approved":
		by := n.By
		if n.Rule != "" {
			by = n.Rule
		}
		return fmt.Sprintf("%s has %s until %s (request %d, approved by %s)", n.User, what, until(n.Until), n.Request, by)
	case "request_denied":
		return fmt.Sprintf("%s denied %s to %s (request %d)", n.By, what, n.User, n.Request)
	case "request_withdrawn":
		return fmt.Sprintf("%s withdrew request %d", n.User, n.Request)
	case "request_lapsed":
		return fmt.Sprintf("request %d of %s lapsed: nobody decided", n.Request, n.User)
	case "request_extended":
		return fmt.Sprintf("%s has %s until %s now (request %d, extended)", n.User, what, until(n.Until), n.Request)
	case "request_shortened":
		return fmt.Sprintf("%s has %s only until %s (request %d)", n.User, what, until(n.Until), n.Request)
	case "request_ended":
		return fmt.Sprintf("%s of %s has ended: %s (request %d)", what, n.User, n.End, n.Request)
	case "request_reviewed":
		return fmt.Sprintf("%s reviewed break-glass of %s (request %d)", n.By, n.User, n.Request)
	case "extension_filed":
		return fmt.Sprintf("%s asks for more time (request %d)", n.User, n.Request)
	case "extension_denied":
		return fmt.Sprintf("%s denied more time to %s (request %d)", n.By, n.User, n.Request)
	case "extension_lapsed":
		return fmt.Sprintf("more time for %s was not decided about (request %d)", n.User, n.Request)
	case "lock_set":
		return fmt.Sprintf("%s locked %s", n.By, n.Lock)
	case "lock_lifted":
		return fmt.Sprintf("%s lifted the lock on %s", n.By, n.Lock)
	}
	return e.Type
}

func until(t *time.Time) string {
	if t == nil {
		return "?"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// lines are what else there is to know.
func (e event) lines() []string {
	var lines []string
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, name+": "+value)
		}
	}
	add("Reason", e.Data.Reason)
	add("Said", e.Data.Said)
	add("May decide", strings.Join(e.Data.Deciders, ", "))
	add("For the attention of", strings.Join(e.Data.Notify, ", "))
	add("Type", e.Data.Command)
	return lines
}

// maxSlack is the longest text that Slack takes in a section; with a longer one it takes nothing.
const maxSlack = 3000

// slackEscape keeps what people wrote from mentioning channels and hiding links.
var slackEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// slackText is text for Slack in at most longest characters. A reason of nothing but ampersands is five times as long there.
func slackText(text string, longest int) string {
	length := 0
	for i, r := range text {
		n := utf8.RuneCountInString(slackEscape.Replace(string(r)))
		if length+n > longest-1 && len(text) > i+utf8.RuneLen(r) {
			return slackEscape.Replace(text[:i]) + "…"
		}
		length += n
	}
	return slackEscape.Replace(text)
}

// slackBody is a message for Slack. What to type comes before what may be cut.
func slackBody(m access.Message) ([]byte, error) {
	e, err := parseEvent(m)
	if err != nil {
		return nil, err
	}
	subject := slackText(e.subject(), maxSubject)
	text := subject
	if e.Data.Command != "" {
		text += "\n" + slackText("Type: "+e.Data.Command, maxSubject)
	}
	e.Data.Command = ""
	for _, line := range e.lines() {
		if room := maxSlack - utf8.RuneCountInString(text) - 1; room > 20 {
			text += "\n" + slackText(line, room)
		}
	}
	return json.Marshal(map[string]any{
		"text":   subject,
		"blocks": []any{map[string]any{"type": "section", "text": map[string]any{"type": "mrkdwn", "text": text, "verbatim": true}}},
	})
}
