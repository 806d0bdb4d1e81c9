#!/usr/bin/env bash
#
# psql. Which libpq it is and how that connects is up to LD_LIBRARY_PATH and PG… variables.

set -uo pipefail

psql=/usr/lib/postgresql/15/bin/psql
export PGHOST=$HOURGATE_HOST PGPORT=$HOURGATE_PORT PGDATABASE=$HOURGATE_DATABASE
export PGSSLMODE=verify-full PGSSLROOTCERT=$HOURGATE_CA PGPASSWORD=$HOURGATE_PASSWORD
export PGCHANNELBINDING=${PGCHANNELBINDING:-require}

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# run USER: psql with the script on its standard input; prints what psql does, errors with their SQLSTATE.
run() { PGUSER=$1 "$psql" -XAtq -v VERBOSITY=verbose 2>&1; }

# want CHECK OUTPUT [REMARK]: the check passed if the output is what standard input says.
want() {
  local wanted
  wanted=$(cat)
  if [[ $2 == "$wanted" ]]; then ok "$1" "${3:-}"; else fail "$1" "got $2, want $wanted"; fi
}

# contains CHECK OUTPUT REMARK TEXT…: the check passed if each text is in the output.
contains() {
  local check=$1 output=$2 remark=$3 text
  for text in "${@:4}"; do
    [[ $output == *"$text"* ]] || { fail "$check" "no $text in $output"; return; }
  done
  ok "$check" "$remark"
}

ok() { echo "ok $1${2:+: $2}"; }
fail() { echo "FAIL $1: ${2//$'\n'/ }"; }

# until_in FILE TEXT: waits until the text is in the file.
until_in() {
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    grep -q "$2" "$1" && return
    sleep 0.05
  done
}

libpq=$(LD_TRACE_LOADED_OBJECTS=1 "$psql" | awk '$1 == "libpq.so.5" { print $3 }')
echo "version $("$psql" --version | awk '{ print $3 }'), $(basename "$(readlink -f "$libpq")" | sed 's/\.so\.5\./ /')"
echo "tls verify-full, channel binding"

out=$(run "$HOURGATE_USER" <<<'SELECT session_user;')
contains login "$out" "" hg_alice_work_
echo "n/a parameters: psql 15 puts its variables into the text of the query itself."
out=$(run "$HOURGATE_USER" <<<'SELECT name FROM customers ORDER BY id;' | sed -n '1p; $p; $=')
want rows "$out" <<'END'
Customer 1
Customer 100
100
END

out=$(run "$HOURGATE_USER" <<<'\copy customers TO STDOUT' | wc -l)
want copy-out "$out" <<<100
out=$(run "$HOURGATE_USER" <<'END'
BEGIN;
\copy orders (customer_id, note) FROM STDIN
1	copied
2	copied
3	copied
\.
SELECT count(*) FROM orders WHERE note = 'copied';
ROLLBACK;
END
)
want copy-in "$out" <<<3

out=$(run "$HOURGATE_USER" <<'END'
BEGIN;
UPDATE orders SET note = 'changed' WHERE id = 1;
ROLLBACK;
SELECT note FROM orders WHERE id = 1;
BEGIN;
UPDATE orders SET note = 'changed' WHERE id = 1;
COMMIT;
SELECT note FROM orders WHERE id = 1;
END
)
want transaction "$out" <<'END'
Order 1
changed
END

out=$(run "$HOURGATE_USER" <<'END'
SELECT * FROM no_such_table;
SELECT 'it goes on';
END
)
contains error "$out" "" "ERROR:  42P01" "it goes on"

# Control-C.
: >"$dir/cancel"
PGUSER=$HOURGATE_USER "$psql" -XAtq -v VERBOSITY=verbose >"$dir/cancel" 2>&1 <<'END' &
\echo asleep
SELECT pg_sleep(30);
END
until_in "$dir/cancel" asleep
sleep 0.5
kill -INT $!
wait $!
contains cancel "$(<"$dir/cancel")" "psql ends with the statement when it reads a script." "ERROR:  57014"

no_code="The message only: libpq hands on no SQLSTATE of a connection that failed."
out=$(PGPASSWORD=wrong run "$HOURGATE_USER" <<<'SELECT 1;')
contains wrong-password "$out" "$no_code" "password authentication failed for user \"$HOURGATE_USER\""
out=$(run "$HOURGATE_EXPIRED_USER" <<<'SELECT 1;')
contains expired-grant "$out" "$no_code" "no live grant for \"$PGDATABASE\"" "DETAIL:  Grant last-week" HINT: connect to: invoices

# Two sessions whose grant ends: one has a statement running, one waits for the next.
touch "$dir/running" "$dir/idle"
mkfifo "$dir/next"
run "$HOURGATE_ENDING_USER" >"$dir/idle" <"$dir/next" &
idle=$!
exec 3>"$dir/next"
echo '\echo connected' >&3
run "$HOURGATE_ENDING_USER" >"$dir/running" <<'END' &
\echo connected
SELECT pg_sleep(30);
END
running=$!
until_in "$dir/idle" connected
until_in "$dir/running" connected
echo end
wait $running
sleep 1 # until the other has ended, too
echo 'SELECT 1;' >&3
exec 3>&-
wait $idle
ended="FATAL:  57P01: terminating connection: your grant has ended"
contains end-running "$(<"$dir/running")" "" "$ended"
contains end-idle "$(<"$dir/idle")" "" "$ended"
