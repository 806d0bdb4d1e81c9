package first

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Asker asks a person, or takes the defaults where nobody is there to ask.
type Asker struct {
	in       *bufio.Reader
	out      io.Writer
	terminal *os.File // nil: nobody is there
}

// NewAsker asks at a terminal. quiet, or a standard input that is none, stands for nobody.
func NewAsker(stdin io.Reader, out io.Writer, quiet bool) *Asker {
	file, ok := stdin.(*os.File)
	if !ok || quiet || !term.IsTerminal(int(file.Fd())) {
		return &Asker{out: out}
	}
	return &Asker{in: bufio.NewReader(file), out: out, terminal: file}
}

// text asks until there is an answer; an empty one is the default. Where nobody is there, that is the answer, and an error
// that names the flag if there is no default either.
func (a *Asker) text(flag, question, otherwise string) (string, error) {
	if a.in == nil {
		if otherwise == "" && flag != "--dba-user" {
			return "", fmt.Errorf("%s is required where nobody can be asked", flag)
		}
		return otherwise, nil
	}
	for {
		fmt.Fprint(a.out, question)
		if otherwise != "" {
			fmt.Fprintf(a.out, " [%s]", otherwise)
		}
		fmt.Fprint(a.out, ": ")
		line, err := a.in.ReadString('\n')
		if err != nil {
			return "", errors.New("no answer")
		}
		answer := strings.TrimSpace(line)
		switch {
		case answer != "":
			return answer, nil
		case otherwise != "" || flag == "--dba-user":
			return otherwise, nil
		}
	}
}

// yes asks a question whose answer is yes or no. Where nobody is there the answer is no.
func (a *Asker) yes(question string) (bool, error) {
	if a.in == nil {
		return false, nil
	}
	answer, err := a.text("", question+" (yes or no)", "no")
	return strings.HasPrefix(strings.ToLower(answer), "y"), err
}

// secret asks without showing the answer. "" is an answer, and the only one where nobody is there.
func (a *Asker) secret(question string) (string, error) {
	if a.terminal == nil {
		return "", nil
	}
	fmt.Fprintf(a.out, "%s: ", question)
	password, err := term.ReadPassword(int(a.terminal.Fd()))
	fmt.Fprintln(a.out)
	if err != nil {
		return "", fmt.Errorf("reading a password: %w", err)
	}
	return string(password), nil
}
