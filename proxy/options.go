package proxy

import (
	_ "embed" // the list of PostgreSQL's settings
	"fmt"
	"strings"
	"sync"

	"github.com/hourgate/hourgate/internal/strangers"
)

// allowedParameters are the settings that are the user's own on any of PostgreSQL 13 to 18: at startup or later, by SET, they do no
// harm. What is not here could before the session is ours to watch: post_auth_delay hides a backend that has authenticated,
// local_preload_libraries loads what SET can't, session_authorization changes who it is. Settings of the user's own making
// ("my.name") are let through besides, and role, if the grant names it.
var allowedParameters = setOf(
	// What drivers send, and how values are written.
	"bytea_output", "client_encoding", "client_min_messages", "datestyle", "extra_float_digits", "intervalstyle", "lc_monetary",
	"lc_numeric", "lc_time", "quote_all_identifiers", "standard_conforming_strings", "timezone", "timezone_abbreviations",
	"xmlbinary", "xmloption",

	// What statements mean, and make.
	"array_nulls", "backslash_quote", "check_function_bodies", "createrole_self_grant", "default_table_access_method",
	"default_tablespace", "default_text_search_config", "default_toast_compression", "escape_string_warning",
	"icu_validation_level", "md5_password_warnings", "operator_precedence_warning", "password_encryption",
	"restrict_nonsystem_relation_kind", "row_security", "scram_iterations", "search_path", "stats_fetch_consistency",
	"synchronize_seqscans", "temp_tablespaces", "transform_null_equals",

	// Transactions, and limits.
	"client_connection_check_interval", "default_transaction_deferrable", "default_transaction_isolation",
	"default_transaction_read_only", "exit_on_error", "idle_in_transaction_session_timeout", "idle_session_timeout",
	"lock_timeout", "statement_timeout", "synchronous_commit", "tcp_keepalives_count", "tcp_keepalives_idle",
	"tcp_keepalives_interval", "tcp_user_timeout", "transaction_deferrable", "transaction_isolation", "transaction_read_only",
	"transaction_timeout", "wal_sender_timeout",

	// Memory, disks, and how statements are run.
	"backend_flush_after", "commit_siblings", "constraint_exclusion", "cpu_index_tuple_cost", "cpu_operator_cost", "cpu_tuple_cost",
	"cursor_tuple_fraction", "default_statistics_target", "effective_cache_size", "effective_io_concurrency",
	"enable_async_append", "enable_bitmapscan", "enable_distinct_reordering", "enable_gathermerge", "enable_group_by_reordering",
	"enable_hashagg", "enable_hashjoin", "enable_incremental_sort", "enable_indexonlyscan", "enable_indexscan",
	"enable_material", "enable_memoize", "enable_mergejoin", "enable_nestloop", "enable_parallel_append", "enable_parallel_hash",
	"enable_partition_pruning", "enable_partitionwise_aggregate", "enable_partitionwise_join", "enable_presorted_aggregate",
	"enable_self_join_elimination", "enable_seqscan", "enable_sort", "enable_tidscan", "file_copy_method", "from_collapse_limit",
	"geqo", "geqo_effort", "geqo_generations", "geqo_pool_size", "geqo_seed", "geqo_selection_bias", "geqo_threshold",
	"gin_fuzzy_search_limit", "gin_pending_list_limit", "hash_mem_multiplier", "io_combine_limit", "jit", "jit_above_cost",
	"jit_expressions", "jit_inline_above_cost", "jit_optimize_above_cost", "jit_tuple_deforming", "join_collapse_limit",
	"logical_decoding_work_mem", "maintenance_io_concurrency", "maintenance_work_mem", "max_parallel_maintenance_workers",
	"max_parallel_workers", "max_parallel_workers_per_gather", "min_parallel_index_scan_size", "min_parallel_table_scan_size",
	"parallel_leader_participation", "parallel_setup_cost", "parallel_tuple_cost", "plan_cache_mode", "random_page_cost",
	"recursive_worktable_factor", "seq_page_cost", "temp_buffers", "wal_skip_threshold", "work_mem",

	// What VACUUM does.
	"vacuum_buffer_usage_limit", "vacuum_cleanup_index_scale_factor", "vacuum_cost_delay", "vacuum_cost_limit",
	"vacuum_cost_page_dirty", "vacuum_cost_page_hit", "vacuum_cost_page_miss", "vacuum_failsafe_age", "vacuum_freeze_min_age",
	"vacuum_freeze_table_age", "vacuum_max_eager_freeze_failure_rate", "vacuum_multixact_failsafe_age",
	"vacuum_multixact_freeze_min_age", "vacuum_multixact_freeze_table_age", "vacuum_truncate",

	// What developers of PostgreSQL look at.
	"debug_logical_replication_streaming", "debug_parallel_query", "debug_pretty_print", "debug_print_parse", "debug_print_plan",
	"debug_print_rewritten", "force_parallel_mode", "log_parameter_max_length_on_error", "trace_notify", "trace_sort",
)

// grantableParameters are for superusers, and since PostgreSQL 15 for those who were granted SET on them. The server decides.
var grantableParameters = setOf("track_activities")

const roleParameter = "role"

// settingNames are the settings that any of PostgreSQL 13 to 18 knows.
//
//go:embed settings.txt
var settingNames string

var knownSettings = sync.OnceValue(func() map[string]bool { return setOf(strings.Fields(settingNames)...) })

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

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
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
