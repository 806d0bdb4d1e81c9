package gate

import (
	"context"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/hourgate/hourgate/access/notify"
)

// Notification is one channel that is told of every change of a request or lock.
type Notification struct {
	Name string `yaml:"name"`
	Type string `yaml:"type"` // webhook, slack or smtp

	URL          string `yaml:"url"`      // of a webhook
	URLFile      string `yaml:"url_file"` // of a webhook of Slack's, whose address is a secret
	SecretFile   string `yaml:"secret_file"`
	AllowPrivate bool   `yaml:"allow_private"`

	Server    string   `yaml:"server"` // host:port, of smtp
	From      string   `yaml:"from"`
	To        []string `yaml:"to"`
	Username  string   `yaml:"username"`
	Plaintext bool     `yaml:"plaintext"`
}

var channelName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

func (v *validation) notifications(all []Notification, state bool) {
	if len(all) > 0 && !state {
		v.report("notifications", "need state, where messages wait until they are sent")
	}
	seen := make(map[string]bool)
	for i := range all {
		n, path := &all[i], fmt.Sprintf("notifications[%d]", i)
		if !channelName.MatchString(n.Name) {
			v.report(path+".name", "want 1 to 32 lower-case letters, digits, dashes and underscores")
		} else if seen[n.Name] {
			v.report(path+".name", "%q is taken", n.Name)
		}
		seen[n.Name] = true
		n.check(path, v)
	}
}

func (n *Notification) check(path string, v *validation) {
	switch n.Type {
	case "webhook":
		v.required(path+".secret_file", n.SecretFile)
		if u, err := url.Parse(n.URL); err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !n.AllowPrivate) {
			v.report(path+".url", "want https://… (http:// with allow_private only)")
		}
	case "slack":
		v.required(path+".url_file", n.URLFile)
	case "smtp":
		if _, _, err := net.SplitHostPort(n.Server); err != nil {
			v.report(path+".server", "want host:port, such as smtp.example.com:587")
		}
		if _, err := mail.ParseAddress(n.From); err != nil {
			v.report(path+".from", "want an address")
		}
		if len(n.To) == 0 {
			v.report(path+".to", "required")
		}
		for k, to := range n.To {
			if a, err := mail.ParseAddress(to); err != nil || a.Address != to {
				v.report(fmt.Sprintf("%s.to[%d]", path, k), "want an address")
			}
		}
		if n.Username != "" {
			v.required(path+".secret_file", n.SecretFile)
		}
	default:
		v.report(path+".type", "want webhook, slack or smtp, got %q", n.Type)
	}
}

// channel makes what sends. Secrets are read from their files.
func (n *Notification) channel() (notify.Channel, error) {
	read := func(file string) (string, error) {
		content, err := os.ReadFile(file)
		return strings.TrimSpace(string(content)), err
	}
	switch n.Type {
	case "webhook":
		text, err := read(n.SecretFile)
		if err != nil {
			return nil, err
		}
		secret, err := notify.ParseSecret(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.SecretFile, err)
		}
		return &notify.Webhook{URL: n.URL, Secret: secret, Client: notify.NewClient(n.AllowPrivate)}, nil
	case "slack":
		address, err := read(n.URLFile)
		if err != nil {
			return nil, err
		}
		if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "https" && !n.AllowPrivate {
			return nil, fmt.Errorf("%s: want https://…", n.URLFile)
		}
		return &notify.Slack{URL: address, Client: notify.NewClient(n.AllowPrivate)}, nil
	default:
		return &notify.Mail{
			Address: n.Server, From: n.From, To: n.To, Username: n.Username, Plaintext: n.Plaintext,
			Password: func(context.Context) (string, error) { return read(n.SecretFile) },
		}, nil
	}
}

// openNotifications makes the channels and the sender, if there is something to send.
func (g *Gate) openNotifications(outbox notify.Outbox) error {
	if len(g.cfg.Notifications) == 0 || outbox == nil {
		return nil
	}
	channels := make(map[string]notify.Channel)
	for i := range g.cfg.Notifications {
		n := &g.cfg.Notifications[i]
		channel, err := n.channel()
		if err != nil {
			return fmt.Errorf("notifications[%d]: %w", i, err)
		}
		channels[n.Name] = channel
	}
	sender := &notify.Sender{Outbox: outbox, Channels: channels, Log: g.log, Results: notify.NewResults(g.registry), Changed: g.access.Changed}
	g.background = append(g.background, sender.Run)
	return nil
}
