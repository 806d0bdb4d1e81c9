package proxy

import (
	"fmt"
	"strings"

	"github.com/hourgate/hourgate/internal/strangers"
)

// setting takes a setting in that was sent by its own name or in "options". Its name is in lower case.
func (s *startup) setting(name, value string) error {
	switch {
	case name == "application_name":
		s.application = value
	case strings.HasPrefix(name, petitionPrefix):
		return s.setPetition(name, value)
	case name == roleParameter && s.params[name] != "" && s.params[name] != value:
		return protocolViolation("startup parameter \"role\" comes twice") // each would have to be allowed
	case allowedParameters[name], grantableParameters[name], name == roleParameter:
		s.put(name, value)
	case strings.Contains(name, "."):
		if !customName(name) {
			return invalidName(name)
		}
		s.put(name, value)
	default:
		return unsupportedParameter(name)
	}
	return nil
}

// customName reports that PostgreSQL 14 and later take the name for one of a setting that they don't know
// (valid_custom_variable_name, guc.c): identifiers with dots between them. 13 takes anything with a dot in it.
func customName(name string) bool {
	start := true // of an identifier
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80:
			start = false
		case !start && (c >= '0' && c <= '9' || c == '$'):
		case !start && c == '.':
			start = true
		default:
			return false
		}
	}
	return !start
}

// put takes the value of an allowed setting in. The last one counts, but PostgreSQL looks at those before it, too, and
// refuses the client if one is not valid: it is to have them.
func (s *startup) put(name, value string) {
	if before, twice := s.params[name]; twice && before != value {
		s.overridden = append(s.overridden, "-c "+escapeOption(name+"="+before))
	}
	s.params[name] = value
}

// setOptions takes the parameter "options" apart, which PostgreSQL treats as command-line arguments of the backend
// (pg_split_opts in src/backend/utils/init/postinit.c), and lets through what would be let through as a parameter.
func (s *startup) setOptions(options string) error {
	args := splitOptions(options)
	for i := 0; i < len(args); i++ {
		setting, ok := strings.CutPrefix(args[i], "--")
		if !ok {
			setting, ok = strings.CutPrefix(args[i], "-c")
			if ok && setting == "" && i+1 < len(args) {
				i++
				setting = args[i]
			}
		}
		name, value, hasValue := strings.Cut(setting, "=")
		// PostgreSQL reads dashes in names given this way as underscores (ParseLongOption, guc.c).
		name = strings.ReplaceAll(lowerASCII(name), "-", "_")
		if !ok || !hasValue || name == "" {
			return protocolViolation(fmt.Sprintf("invalid command-line argument for server process: %s", strangers.Printable(args[i])))
		}
		if err := s.setting(name, value); err != nil {
			return err
		}
	}
	return nil
}

// splitOptions splits at white space; a backslash takes the next character literally, and one at the end nothing.
func splitOptions(options string) []string {
	var args []string
	var arg strings.Builder
	inArg := false
	for i := 0; i < len(options); i++ {
		c := options[i]
		switch {
		case c == '\\':
			if i++; i < len(options) {
				arg.WriteByte(options[i])
			}
			inArg = true
		case c == ' ' || c >= '\t' && c <= '\r':
			if inArg {
				args = append(args, arg.String())
				arg.Reset()
				inArg = false
			}
		default:
			arg.WriteByte(c)
			inArg = true
		}
	}
	if inArg {
		args = append(args, arg.String())
	}
	return args
}

// escapeOption makes one argument of a string: what splitOptions and PostgreSQL take for that argument and nothing else.
func escapeOption(arg string) string {
	var b strings.Builder
	for _, c := range []byte(arg) {
		b.Write([]byte{'\\', c})
	}
	return b.String()
}

// lowerASCII folds names as PostgreSQL does (guc_name_compare, guc.c): bytes that are no ASCII letters are left alone,
// and so are those that are not UTF-8.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
