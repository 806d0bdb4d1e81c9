#!/usr/bin/env bash
#
# psql in database "hourgate". $1 is the psql; which libpq it has is up to LD_LIBRARY_PATH.

set -uo pipefail

export PGHOST=$HOURGATE_HOST PGPORT=$HOURGATE_PORT PGSSLMODE=verify-full PGSSLROOTCERT=$HOURGATE_CA PGPASSWORD=$HOURGATE_PASSWORD
psql=$1

# as USER DATABASE ARGUMENT…: what psql prints, errors with their SQLSTATE.
as() { PGUSER=$1 PGDATABASE=$2 "$psql" -XAt -v VERBOSITY=verbose "${@:3}" 2>&1; }

# contains CHECK OUTPUT TEXT…: the check passed if each text is in the output.
contains() {
  local check=$1 output=$2 text
  for text in "${@:3}"; do
    [[ $output == *"$text"* ]] || { echo "FAIL $check: no $text in ${output//$'\n'/ }"; return; }
  done
  echo "ok $check"
}

contains refused "$(as "$HOURGATE_USER" orders -c 'SELECT 1')" 'no live grant for "orders"' 'type REQUEST READ_ONLY ON orders'
contains access "$(as "$HOURGATE_USER" hourgate -c 'SHOW ACCESS')" 'can ask' READ_WRITE orders
contains request "$(as "$HOURGATE_USER" hourgate -v reason="it's late" <<<"REQUEST READ_WRITE ON orders FOR '1 hour' REASON :'reason';")" \
  1 pending "it's late"
contains own "$(as "$HOURGATE_USER" hourgate -c 'APPROVE 1')" 'ERROR:  P0001: nobody decides their own request'
contains approve "$(as "$HOURGATE_APPROVER" hourgate -c 'APPROVE 1')" active
contains let-in "$(as "$HOURGATE_USER" orders -c 'SELECT count(*) FROM customers')" 100
contains catalog "$(as "$HOURGATE_USER" hourgate -c '\d' -c '\l' -c '\dt+ orders' -c '\conninfo' -c 'SHOW REQUEST 1')" \
  'ERROR:  0A000: this database takes statements about access only, no SQL' active
contains transaction "$(as "$HOURGATE_USER" hourgate -1 -c 'SHOW REQUESTS' -c 'SHOW server_version')" active '18.0 (Hourgate)'
contains end "$(as "$HOURGATE_USER" hourgate -c 'END 1'; as "$HOURGATE_USER" orders -c 'SELECT 1')" 'ended by owner' 'no live grant'
