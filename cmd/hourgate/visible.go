package main

import (
	"io"
	"unicode"
	"unicode/utf8"
)

// cleanWriter keeps what tenants, files and servers chose from steering the terminal that shows it: characters that can't be
// seen become question marks. All that commands print goes through it.
type cleanWriter struct {
	w       io.Writer
	pending []byte // the beginning of a character
}

// Write passes on what can be seen.
func (v *cleanWriter) Write(p []byte) (int, error) {
	in := append(v.pending, p...)
	v.pending = nil
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		r, size := utf8.DecodeRune(in)
		switch {
		case r == utf8.RuneError && size == 1 && !utf8.FullRune(in):
			v.pending, in = append([]byte(nil), in...), nil
			continue
		case r == utf8.RuneError && size == 1, r != '\n' && r != '\t' && !unicode.IsGraphic(r):
			out = append(out, '?')
		default:
			out = append(out, in[:size]...)
		}
		in = in[size:]
	}
	if _, err := v.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// unfiltered is what lies beneath, for the demo, which paints.
func unfiltered(w io.Writer) io.Writer {
	if v, ok := w.(*cleanWriter); ok {
		return v.w
	}
	return w
}
