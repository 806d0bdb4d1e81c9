package gate

import (
	"io"
	"log/slog"
)

// NewLogger writes JSON lines.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
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
