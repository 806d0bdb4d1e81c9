package notify

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

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

// subject is the event on one line.
func (e event) subject() string {
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

// slackBody is a message for Slack. What people wrote can't mention channels or hide links in it.
func slackBody(m access.Message) ([]byte, error) {
	e, err := parseEvent(m)
	if err != nil {
		return nil, err
	}
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace
	text := escape(e.subject())
	for _, line := range e.lines() {
		text += "\n" + escape(line)
	}
	return json.Marshal(map[string]any{
		"text":   escape(e.subject()),
		"blocks": []any{map[string]any{"type": "section", "text": map[string]any{"type": "mrkdwn", "text": text, "verbatim": true}}},
	})
}
