# ruby-pg.
require 'pg'

$stdout.sync = true
ENV_NAMES = %w[HOST PORT CA DATABASE PASSWORD USER EXPIRED_USER ENDING_USER].freeze
HG = ENV_NAMES.to_h { |name| [name, ENV.fetch("HOURGATE_#{name}")] }
GREETING = 'Grüße, "naïve" ☃'
NO_CODE = 'The message only: libpq hands on no SQLSTATE of a connection that failed.'
MESSAGE = 'The driver hands on the message without the SQLSTATE. So it does when PostgreSQL itself ends a session.'

def connect(user, password = HG['PASSWORD'])
  PG.connect(host: HG['HOST'], port: HG['PORT'], dbname: HG['DATABASE'], user: user, password: password,
             sslmode: 'verify-full', sslrootcert: HG['CA'], channel_binding: 'require')
end

# check reports what a block does as one check. The remark goes with ok.
def check(name, remark = nil)
  yield
  puts "ok #{name}#{": #{remark}" if remark}"
rescue StandardError => e
  puts "FAIL #{name}: #{e.class}: #{e.message.split.join(' ')}"
end

# fails runs a block that must raise an error, and returns that.
def fails
  yield
rescue PG::Error => e
  e
else
  raise 'no error'
end

def equal(got, want)
  raise "got #{got.inspect}, want #{want.inspect}" unless got == want
end

def contains(text, *wanted)
  wanted.each { |want| raise "no #{want} in #{text}" unless text.include?(want) }
end

def sqlstate(error)
  error.result&.error_field(PG::PG_DIAG_SQLSTATE)
end

puts "version #{PG::VERSION}, libpq #{PG.library_version / 10000}.#{PG.library_version % 10000}"
puts 'tls verify-full, channel binding'
conn = connect(HG['USER'])

check('login') do
  role = conn.exec('SELECT session_user').getvalue(0, 0)
  raise "the session runs as #{role}" unless role.start_with?('hg_alice_work_')
end
check('parameters') do
  equal conn.exec_params('SELECT $1::int + 2, $2::text', [40, GREETING]).values, [['42', GREETING]]
end
check('rows') do
  names = conn.exec('SELECT name FROM customers ORDER BY id').column_values(0)
  equal [names.size, names.first, names.last], [100, 'Customer 1', 'Customer 100']
end
check('copy-out') do
  lines = 0
  conn.copy_data('COPY customers TO STDOUT') { lines += 1 while conn.get_copy_data }
  equal lines, 100
end
check('copy-in') do
  conn.exec('BEGIN')
  conn.copy_data('COPY orders (customer_id, note) FROM STDIN') do
    (1..3).each { |n| conn.put_copy_data("#{n}\tcopied\n") }
  end
  equal conn.exec("SELECT count(*) FROM orders WHERE note = 'copied'").getvalue(0, 0), '3'
  conn.exec('ROLLBACK')
end
check('transaction') do
  [['ROLLBACK', 'Order 1'], ['COMMIT', 'changed']].each do |last, note|
    conn.exec('BEGIN')
    conn.exec_params("UPDATE orders SET note = 'changed' WHERE id = $1", [1])
    conn.exec(last)
    equal conn.exec('SELECT note FROM orders WHERE id = 1').getvalue(0, 0), note
  end
end
check('error') do
  equal sqlstate(fails { conn.exec('SELECT * FROM no_such_table') }), '42P01'
  equal conn.exec('SELECT 1').getvalue(0, 0), '1'
end
check('cancel') do
  Thread.new { sleep 0.5; conn.cancel }
  equal sqlstate(fails { conn.exec('SELECT pg_sleep(30)') }), '57014'
  equal conn.exec('SELECT 1').getvalue(0, 0), '1'
end
check('wrong-password', NO_CODE) do
  contains fails { connect(HG['USER'], 'wrong') }.message, "password authentication failed for user \"#{HG['USER']}\""
end
check('expired-grant', NO_CODE) do
  contains fails { connect(HG['EXPIRED_USER']) }.message,
           "no live grant for \"#{HG['DATABASE']}\"", 'last-week', 'HINT', 'connect to: invoices'
end

running = connect(HG['ENDING_USER'])
idle = connect(HG['ENDING_USER'])
puts 'end'
[['end-running', running, 'SELECT pg_sleep(30)'], ['end-idle', idle, 'SELECT 1']].each do |name, session, sql|
  check(name, MESSAGE) do
    contains fails { session.exec(sql) }.message, 'terminating connection: your grant has ended'
  end
  sleep 1 # until the other has ended, too
end
