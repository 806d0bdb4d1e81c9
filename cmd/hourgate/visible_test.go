package main

import (
	"bytes"
	"testing"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	const text = "a\tb é €\n\x1b[31m red\x07 \u202eevil \xff\u009b \u200b"
	const want = "a\tb é €\n?[31m red? ?evil ?? ?"
	for step := 1; step <= len(text); step++ {
		var out bytes.Buffer
		v := &cleanWriter{w: &out}
		for rest := text; rest != ""; {
			n := min(step, len(rest))
			if _, err := v.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if out.String() != want {
			t.Fatalf("in pieces of %d: got %q, want %q", step, out.String(), want)
		}
	}
}
