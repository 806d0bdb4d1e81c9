package gate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"
)

// NewLogger writes lines for people where w is a terminal, and JSON lines everywhere else.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		paint := os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		return slog.New(&peopleHandler{out: &lineWriter{w: w}, level: level, paint: paint})
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Value.Kind() == slog.KindDuration { // "1.5s" and not a number of nanoseconds
				a.Value = slog.StringValue(a.Value.Duration().String())
			}
			return a
		},
	}))
}

// lineWriter writes whole lines, one at a time.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// peopleHandler writes a line such as
//
//	19:04:05.123 WARN  integration removed  integration=orders
type peopleHandler struct {
	out    *lineWriter
	level  slog.Leveler
	paint  bool
	prefix string // of keys: the open groups
	attrs  string // that every line has
}

func (h *peopleHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h *peopleHandler) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	level := fmt.Sprintf("%-5s", r.Level)
	if h.paint {
		level = colourOf(r.Level) + level + "\x1b[0m"
	}
	fmt.Fprintf(&b, "%s %s %s", r.Time.Format("15:04:05.000"), level, printable(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, h.prefix, a)
		return true
	})
	b.WriteByte('\n')
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(b.Bytes())
	return err
}

func (h *peopleHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b bytes.Buffer
	for _, a := range attrs {
		writeAttr(&b, h.prefix, a)
	}
	with := *h
	with.attrs += b.String()
	return &with
}

func (h *peopleHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.prefix += name + "."
	return &with
}

func colourOf(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "\x1b[31m"
	case level >= slog.LevelWarn:
		return "\x1b[33m"
	}
	return "\x1b[32m"
}

// writeAttr writes a key and its value. A text of several lines, such as a list of problems, stays of several lines.
func writeAttr(b *bytes.Buffer, prefix string, a slog.Attr) {
	value := a.Value.Resolve()
	var text string
	switch value.Kind() {
	case slog.KindGroup:
		for _, inner := range value.Group() {
			writeAttr(b, prefix+a.Key+".", inner)
		}
		return
	case slog.KindTime:
		text = value.Time().Format(time.RFC3339)
	default:
		text = value.String()
	}
	if first, _, several := strings.Cut(text, "\n"); several && first != "" {
		fmt.Fprintf(b, "  %s%s:", prefix, a.Key)
		for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
			b.WriteString("\n    " + printable(line))
		}
		return
	}
	if text == "" || strings.ContainsAny(text, " \"=") || printable(text) != text {
		text = strconv.Quote(text)
	}
	fmt.Fprintf(b, "  %s%s=%s", prefix, a.Key, text)
}

// printable keeps what others chose from steering the terminal that shows it.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return '?'
		}
		return r
	}, text)
}
