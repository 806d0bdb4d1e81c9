<?php
// PHP's pgsql.

const GREETING = 'Grüße, "naïve" ☃';
const NO_CODE = 'The message only: libpq hands on no SQLSTATE of a connection that failed.';

function env(string $name): string { return getenv("HOURGATE_$name"); }

function say(string $line): void { echo $line, "\n"; }

/** Connects, or throws what the connection failed with. */
function connect(string $user, ?string $password = null): PgSql\Connection
{
    $quote = fn (string $s): string => "'" . addcslashes($s, "'\\") . "'";
    $conn = pg_connect(
        'host=' . env('HOST') . ' port=' . env('PORT') . ' dbname=' . env('DATABASE')
        . ' user=' . $quote($user) . ' password=' . $quote($password ?? env('PASSWORD'))
        . ' sslmode=verify-full channel_binding=require sslrootcert=' . $quote(env('CA')),
        PGSQL_CONNECT_FORCE_NEW);
    return $conn ?: throw new Exception(error_get_last()['message']);
}

/** Sends a query and returns its result, which may be an error. */
function result(PgSql\Connection $conn, string $sql, ?array $args = null): PgSql\Result
{
    $args === null ? pg_send_query($conn, $sql) : pg_send_query_params($conn, $sql, $args);
    $result = pg_get_result($conn);
    while (pg_get_result($conn)) {
    }
    return $result ?: throw new Exception('no result: ' . pg_last_error($conn));
}

function sqlstate(PgSql\Result $result): ?string { return pg_result_error_field($result, PGSQL_DIAG_SQLSTATE); }

function row(PgSql\Connection $conn, string $sql, array $args = []): array
{
    return pg_fetch_row(result($conn, $sql, $args));
}

/** Reports what a function does as one check. The remark goes with ok. */
function check(string $name, callable $function, string $remark = ''): void
{
    try {
        $function();
        say("ok $name" . ($remark ? ": $remark" : ''));
    } catch (Throwable $e) {
        say("FAIL $name: " . preg_replace('/\s+/', ' ', $e->getMessage()));
    }
}

/** Calls a function that must throw, and returns the message. */
function fails(callable $function): string
{
    try {
        $function();
    } catch (Exception $e) {
        return $e->getMessage();
    }
    throw new Error('no error');
}

function equal(mixed $got, mixed $want): void
{
    $got === $want ?: throw new Exception('got ' . json_encode($got) . ', want ' . json_encode($want));
}

function contains(string $text, string ...$wanted): void
{
    foreach ($wanted as $want) {
        str_contains($text, $want) ?: throw new Exception("no $want in $text");
    }
}

ini_set('display_errors', 'stderr');
say('version ' . PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION . '.' . PHP_RELEASE_VERSION . ', libpq ' . pg_version(connect(env('USER')))['client']);
say('tls verify-full, channel binding');
$conn = connect(env('USER'));

check('login', function () use ($conn) {
    [$role] = row($conn, 'SELECT session_user');
    str_starts_with($role, 'hg_alice_work_') ?: throw new Exception("the session runs as $role");
});
check('parameters', fn () => equal(row($conn, 'SELECT $1::int + 2, $2::text', [40, GREETING]), ['42', GREETING]));
check('rows', function () use ($conn) {
    $names = pg_fetch_all_columns(result($conn, 'SELECT name FROM customers ORDER BY id'));
    equal([count($names), $names[0], $names[99]], [100, 'Customer 1', 'Customer 100']);
});
check('copy-out', fn () => equal(count(pg_copy_to($conn, 'customers')), 100));
check('copy-in', function () use ($conn) {
    result($conn, 'BEGIN');
    pg_query($conn, 'COPY orders (customer_id, note) FROM STDIN');
    foreach ([1, 2, 3] as $n) {
        pg_put_line($conn, "$n\tcopied\n");
    }
    pg_put_line($conn, "\\.\n");
    pg_end_copy($conn);
    equal(row($conn, "SELECT count(*) FROM orders WHERE note = 'copied'"), ['3']);
    result($conn, 'ROLLBACK');
});
check('transaction', function () use ($conn) {
    foreach ([['ROLLBACK', 'Order 1'], ['COMMIT', 'changed']] as [$end, $note]) {
        result($conn, 'BEGIN');
        result($conn, "UPDATE orders SET note = 'changed' WHERE id = \$1", [1]);
        result($conn, $end);
        equal(row($conn, 'SELECT note FROM orders WHERE id = 1'), [$note]);
    }
});
check('error', function () use ($conn) {
    equal(sqlstate(result($conn, 'SELECT * FROM no_such_table')), '42P01');
    equal(row($conn, 'SELECT 1'), ['1']);
});
check('cancel', function () use ($conn) {
    $began = microtime(true);
    pg_send_query($conn, 'SELECT pg_sleep(30)');
    usleep(500000);
    pg_cancel_query($conn) ?: throw new Exception('not cancelled');
    equal(row($conn, 'SELECT 1'), ['1']);
    microtime(true) - $began < 20 ?: throw new Exception('the statement went on');
}, 'The driver drops the result of a query that it cancels.');
check('wrong-password', fn () => contains(fails(fn () => @connect(env('USER'), 'wrong')),
    'password authentication failed for user "' . env('USER') . '"'), NO_CODE);
check('expired-grant', fn () => contains(fails(fn () => @connect(env('EXPIRED_USER'))),
    'no live grant for "' . env('DATABASE') . '"', 'last-week', 'HINT', 'connect to: invoices'), NO_CODE);

$running = connect(env('ENDING_USER'));
$idle = connect(env('ENDING_USER'));
say('end');
check('end-running', fn () => equal(sqlstate(result($running, 'SELECT pg_sleep(30)')), '57P01'));
sleep(1); // until the other has ended, too
check('end-idle', fn () => equal(sqlstate(result($idle, 'SELECT 1')), '57P01'));
