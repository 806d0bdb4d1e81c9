package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// demoWidth is how many columns the demo's output takes at most.
const demoWidth = 100

// demoOutput is how the demo looks: titles, numbered steps, sentences, commands, their output, verdicts. The words are
// plain text; colour is an extra for terminals.
type demoOutput struct {
	w     io.Writer
	paint bool
	steps int
}

func newDemoOutput(w io.Writer) *demoOutput {
	file, ok := w.(*os.File)
	paint := ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return &demoOutput{w: w, paint: paint}
}

// stopOnError calls stop when nobody reads the output any more.
type stopOnError struct {
	io.Writer
	stop func()
}

// Write passes on what the writer says.
func (s *stopOnError) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	if err != nil {
		s.stop()
	}
	return n, err
}

// Colours, as parameters of the terminal's SGR sequence.
const (
	bold   = "1"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (o *demoOutput) colour(parameter, text string) string {
	if !o.paint {
		return text
	}
	return "\x1b[" + parameter + "m" + text + "\x1b[0m"
}

func (o *demoOutput) title(text string) { fmt.Fprintf(o.w, "\n%s\n", o.colour(bold, text)) }

// step begins a numbered step: what is to be seen.
func (o *demoOutput) step(text string) {
	o.steps++
	o.title(fmt.Sprintf("%d. %s", o.steps, text))
}

func (o *demoOutput) say(text string) {
	for _, line := range wrapped(text, "   ", "   ") {
		fmt.Fprintln(o.w, strings.TrimRight(line, " "))
	}
}

func (o *demoOutput) sayf(format string, args ...any) { o.say(fmt.Sprintf(format, args...)) }

// command shows what a person would type. It may have several lines.
func (o *demoOutput) command(commands ...string) {
	for _, command := range commands {
		first, rest, more := strings.Cut(command, "\n")
		fmt.Fprintf(o.w, "   %s %s\n", o.colour(green, "$"), o.colour(cyan, first))
		if more {
			for line := range strings.SplitSeq(rest, "\n") {
				fmt.Fprintf(o.w, "     %s\n", o.colour(cyan, line))
			}
		}
	}
}

// suggest shows commands for a person to try, and what for.
func (o *demoOutput) suggest(text string, commands ...string) {
	fmt.Fprintln(o.w)
	o.say(text)
	o.command(commands...)
}

// printed shows a line of a program's output.
func (o *demoOutput) printed(line string) {
	for _, part := range wrapped(line, "     ", "       ") {
		if strings.Contains(line, "ERROR:  ") || strings.Contains(line, "FATAL:  ") {
			part = o.colour(yellow, part)
		}
		fmt.Fprintln(o.w, part)
	}
}

// sure says what was checked, and found to be so.
func (o *demoOutput) sure(format string, args ...any) {
	lines := wrapped(fmt.Sprintf(format, args...), "", "      ")
	fmt.Fprintf(o.w, "   %s %s\n", o.colour(green, "ok"), strings.Join(lines, "\n"))
}

// wrapped breaks text at spaces such that no line is longer than the demo's width, if it can. Spaces inside of a line
// stay as they are: tables are made of them.
func wrapped(text, indent, hanging string) []string {
	var lines []string
	for prefix := indent; ; prefix = hanging {
		room := demoWidth - max(len(prefix), len("   ok "))
		if utf8.RuneCountInString(text) <= room {
			return append(lines, prefix+text)
		}
		cut := strings.LastIndexByte(string([]rune(text)[:room+1]), ' ')
		if cut <= 0 {
			return append(lines, prefix+text)
		}
		lines = append(lines, prefix+text[:cut])
		text = strings.TrimLeft(text[cut:], " ")
	}
}

// demoCapture shows a program's output line by line as it comes, and keeps it.
type demoCapture struct {
	out     *demoOutput
	text    bytes.Buffer
	pending []byte    // a line that has no end yet
	fatalAt time.Time // when a FATAL came; zero: none did
}

func (c *demoCapture) Write(p []byte) (int, error) {
	if c.fatalAt.IsZero() && bytes.Contains(p, []byte("FATAL:")) {
		c.fatalAt = time.Now()
	}
	c.text.Write(p)
	c.pending = append(c.pending, p...)
	for {
		line, rest, whole := bytes.Cut(c.pending, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		// An empty line says nothing in a narrow space.
		if text := strings.TrimRight(strings.ReplaceAll(string(line), "\t", "    "), " "); text != "" {
			c.out.printed(text)
		}
		c.pending = rest
	}
}

// inWords is for durations from milliseconds to an hour.
func inWords(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d%time.Hour == 0:
		return plural(int(d.Hours()), "hour")
	case d < time.Minute:
		return plural(int(d.Seconds()), "second")
	}
	return d.String()
}

func plural(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

func clockTime(t time.Time) string { return t.UTC().Format("15:04:05") }
