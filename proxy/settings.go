package proxy

import (
	_ "embed" // the list of PostgreSQL's settings
	"strings"
	"sync"
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

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}
