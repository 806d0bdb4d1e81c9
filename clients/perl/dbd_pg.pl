# DBD::Pg.
use strict;
use warnings;
use utf8;
use open qw(:std :encoding(UTF-8));

use DBD::Pg qw(:async);
use DBI;
use Encode qw(decode_utf8);
use Time::HiRes qw(sleep);

$| = 1;
my %env = map { $_ => decode_utf8($ENV{"HOURGATE_$_"}) } qw(HOST PORT CA DATABASE PASSWORD USER EXPIRED_USER ENDING_USER);
my $greeting = 'Grüße, "naïve" ☃';
my $no_code  = 'The message only: libpq hands on no SQLSTATE of a connection that failed.';
my $message  = 'The driver hands on the message without the SQLSTATE. So it does when PostgreSQL itself ends a session.';

sub connection {
    my ($user, $password) = @_;
    my $settings = join ';', "host=$env{HOST}", "port=$env{PORT}", "dbname=$env{DATABASE}",
      'sslmode=verify-full', "sslrootcert=$env{CA}", 'channel_binding=require';
    return DBI->connect("dbi:Pg:$settings", $user, $password // $env{PASSWORD},
        { RaiseError => 1, PrintError => 0, AutoCommit => 1 });
}

# check reports what a function does as one check. The remark goes with ok.
sub check {
    my ($name, $function, $remark) = @_;
    if (eval { $function->(); 1 }) {
        print "ok $name", ($remark ? ": $remark" : ''), "\n";
        return;
    }
    my $error = $@;
    $error =~ s/\s+/ /g;
    print "FAIL $name: $error\n";
    return;
}

sub equal {
    my ($got, $want) = @_;
    $got eq $want or die "got $got, want $want";
    return;
}

# fails calls a function that must fail, and returns the message.
sub fails {
    my ($function) = @_;
    eval { $function->(); 1 } and die 'no error';
    return $@;
}

sub contains {
    my ($text, @wanted) = @_;
    index($text, $_) >= 0 or die "no $_ in $text" for @wanted;
    return;
}

print "version $DBD::Pg::VERSION\n";
print "tls verify-full, channel binding\n";
my $dbh = connection($env{USER});

check('login', sub {
    my ($role) = $dbh->selectrow_array('SELECT session_user');
    $role =~ /^hg_alice_work_/ or die "the session runs as $role";
});
check('parameters', sub {
    equal(join('|', $dbh->selectrow_array('SELECT ?::int + 2, ?::text', undef, 40, $greeting)), "42|$greeting");
});
check('rows', sub {
    my $names = $dbh->selectcol_arrayref('SELECT name FROM customers ORDER BY id');
    equal(join('|', scalar @$names, @$names[0, -1]), '100|Customer 1|Customer 100');
});
check('copy-out', sub {
    $dbh->do('COPY customers TO STDOUT');
    my ($n, $line) = (0);
    $n++ while $dbh->pg_getcopydata($line) >= 0;
    equal($n, 100);
});
check('copy-in', sub {
    $dbh->begin_work;
    $dbh->do('COPY orders (customer_id, note) FROM STDIN');
    $dbh->pg_putcopydata("$_\tcopied\n") for 1 .. 3;
    $dbh->pg_putcopyend;
    equal($dbh->selectrow_array("SELECT count(*) FROM orders WHERE note = 'copied'"), 3);
    $dbh->rollback;
});
check('transaction', sub {
    for (['rollback', 'Order 1'], ['commit', 'changed']) {
        my ($end, $note) = @$_;
        $dbh->begin_work;
        $dbh->do("UPDATE orders SET note = 'changed' WHERE id = ?", undef, 1);
        $dbh->$end;
        equal($dbh->selectrow_array('SELECT note FROM orders WHERE id = 1'), $note);
    }
});
check('error', sub {
    fails(sub { $dbh->do('SELECT * FROM no_such_table') });
    equal($dbh->state, '42P01');
    equal($dbh->selectrow_array('SELECT 1'), 1);
});
check('cancel', sub {
    $dbh->do('SELECT pg_sleep(30)', { pg_async => PG_ASYNC });
    sleep 0.5;
    $dbh->pg_cancel or die 'not cancelled';
    equal($dbh->state, '57014');
    equal($dbh->selectrow_array('SELECT 1'), 1);
});
check('wrong-password', sub {
    contains(fails(sub { connection($env{USER}, 'wrong') }), "password authentication failed for user \"$env{USER}\"");
}, $no_code);
check('expired-grant', sub {
    contains(fails(sub { connection($env{EXPIRED_USER}) }),
        "no live grant for \"$env{DATABASE}\"", 'last-week', 'HINT', 'connect to: invoices');
}, $no_code);

my ($running, $idle) = (connection($env{ENDING_USER}), connection($env{ENDING_USER}));
print "end\n";
for (['end-running', $running, 'SELECT pg_sleep(30)'], ['end-idle', $idle, 'SELECT 1']) {
    my ($name, $session, $sql) = @$_;
    check($name, sub {
        contains(fails(sub { $session->do($sql) }), 'terminating connection: your grant has ended');
        equal($session->state, '08000');
    }, $message);
    sleep 1; # until the other has ended, too
}
