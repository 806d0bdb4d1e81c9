package proxy

import (
	"fmt"
	"strings"
)

// allowedParameters are the settings that drivers and people send at startup and that a session may set for itself later
// anyway. What is not here can't do harm by SET, but could before the session is ours to watch: post_auth_delay hides a
// backend that has authenticated, role and session_authorization change who it is.
var allowedParameters = map[string]bool{
	"bytea_output":                        true,
	"client_encoding":                     true,
	"client_min_messages":                 true,
	"datestyle":                           true,
	"default_transaction_deferrable":      true,
	"default_transaction_isolation":       true,
	"default_transaction_read_only":       true,
	"enable_seqscan":                      true,
	"extra_float_digits":                  true,
	"geqo":                                true,
	"idle_in_transaction_session_timeout": true,
	"idle_session_timeout":                true,
	"intervalstyle":                       true,
	"jit":                                 true,
	"lc_monetary":                         true,
	"lc_numeric":                          true,
	"lc_time":                             true,
	"lock_timeout":                        true,
	"max_parallel_workers_per_gather":     true,
	"plan_cache_mode":                     true,
	"search_path":                         true,
	"standard_conforming_strings":         true,
	"statement_timeout":                   true,
	"synchronous_commit":                  true,
	"tcp_keepalives_count":                true,
	"tcp_keepalives_idle":                 true,
	"tcp_keepalives_interval":             true,
	"tcp_user_timeout":                    true,
	"timezone":                            true,
	"transaction_timeout":                 true,
	"work_mem":                            true,
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
			return protocolViolation(fmt.Sprintf("invalid command-line argument for server process: %s", printable(args[i])))
		}
		switch {
		case name == "application_name":
			s.application = value
		case allowedParameters[name]:
			s.put(name, value)
		default:
			return unsupportedParameter(name)
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
