package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hourgate/hourgate/internal/verifier"
)

func passwdCommand() *cobra.Command {
	var iterations int
	cmd := &cobra.Command{
		Use:   "passwd",
		Short: "Turn a password into the verifier for a policy file",
		Long: "Reads a password, without showing it, and prints the SCRAM-SHA-256 verifier that goes into a policy file as\n" +
			"users[].scram. It is the form in which PostgreSQL stores passwords. The password itself is kept nowhere.\n" +
			"If standard input is no terminal, its first line is the password.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			password, err := readNewPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return failed(err)
			}
			v, err := verifier.New(password, iterations)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), v.Encode())
			return failed(err)
		},
	}
	cmd.Flags().IntVar(&iterations, "iterations", verifier.DefaultIterations, "work factor; the client does this work at each log-in")
	return cmd
}

// readNewPassword asks twice at a terminal, and takes the first line of anything else.
func readNewPassword(stdin io.Reader, prompt io.Writer) (string, error) {
	file, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		line, err := bufio.NewReader(stdin).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	password, err := promptPassword(file, prompt, "Password: ")
	if err != nil {
		return "", err
	}
	again, err := promptPassword(file, prompt, "Once more: ")
	if err != nil {
		return "", err
	}
	if password != again {
		return "", errors.New("the two passwords differ; nothing was printed")
	}
	return password, nil
}

func promptPassword(terminal *os.File, prompt io.Writer, question string) (string, error) {
	fmt.Fprint(prompt, question)
	b, err := term.ReadPassword(int(terminal.Fd()))
	fmt.Fprintln(prompt)
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return string(b), nil
}
