// node-postgres.
'use strict'

const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const pg = require('pg')
const { from, to } = require('pg-copy-streams')
const version = require('pg/package.json').version
const c = require('./checks.js')

const options = (user, password = c.password) => ({
  host: c.host, port: c.port, database: c.database, user, password,
  ssl: { ca: c.ca, rejectUnauthorized: true, servername: c.host }, enableChannelBinding: true,
})

const connect = async (user, password) => {
  const client = new pg.Client(options(user, password))
  client.on('error', () => {}) // the end of an idle connection must not end the process
  await client.connect()
  return client
}

const main = async () => {
  c.say(`version ${version}`)
  c.say('tls verify-full, channel binding')
  const client = await connect(c.user)
  const value = async (sql, args) => Object.values((await client.query(sql, args)).rows[0])
  await c.check('login', async () => c.isRole((await value('SELECT session_user'))[0]))
  await c.check('parameters', async () => c.equal(await value('SELECT $1::int + 2, $2::text AS text', [40, c.greeting]), [42, c.greeting]))
  await c.check('rows', async () => {
    const { rows } = await client.query('SELECT name FROM customers ORDER BY id')
    c.equal([rows.length, rows[0].name, rows[99].name], [100, 'Customer 1', 'Customer 100'])
  })
  await c.check('copy-out', async () => {
    let text = ''
    for await (const chunk of client.query(to('COPY customers TO STDOUT'))) text += chunk
    c.equal(text.split('\n').length - 1, 100)
  }, 'By pg-copy-streams, a package of its own.')
  await c.check('copy-in', async () => {
    await client.query('BEGIN')
    await pipeline(Readable.from(['1\tcopied\n', '2\tcopied\n3\tcop', 'ied\n']), client.query(from('COPY orders (customer_id, note) FROM STDIN')))
    c.equal(await value("SELECT count(*)::int FROM orders WHERE note = 'copied'"), [3])
    await client.query('ROLLBACK')
  }, 'By pg-copy-streams, a package of its own.')
  await c.check('transaction', async () => {
    for (const [end, note] of [['ROLLBACK', 'Order 1'], ['COMMIT', 'changed']]) {
      await client.query('BEGIN')
      await client.query("UPDATE orders SET note = 'changed' WHERE id = $1", [1])
      await client.query(end)
      c.equal(await value('SELECT note FROM orders WHERE id = 1'), [note])
    }
  })
  await c.check('error', async () => {
    c.equal((await c.rejected(value('SELECT * FROM no_such_table'))).code, '42P01')
    c.equal(await value('SELECT 1'), [1])
  })
  await c.check('cancel', async () => {
    const query = new pg.Query('SELECT pg_sleep(30)')
    const ended = c.rejected(new Promise((resolve, reject) => {
      query.callback = (err) => (err ? reject(err) : resolve())
      client.query(query)
    }))
    await c.sleep(500)
    new pg.Client(options(c.user)).cancel(client, query)
    c.equal((await ended).code, '57014')
    c.equal(await value('SELECT 1'), [1])
  })
  await client.end()
  await c.check('wrong-password', async () => {
    const e = await c.rejected(connect(c.user, 'wrong'))
    c.equal([e.code, e.message], ['28P01', `password authentication failed for user "${c.user}"`])
  })
  await c.check('expired-grant', async () => c.isDenial(await c.rejected(connect(c.expiredUser))))

  const running = await connect(c.endingUser)
  const idle = await connect(c.endingUser)
  const idleEnds = new Promise((resolve) => idle.on('error', resolve)) // it needs no query to learn of it
  c.say('end')
  await c.check('end-running', async () => c.equal((await c.rejected(running.query('SELECT pg_sleep(30)'))).code, '57P01'))
  await c.check('end-idle', async () => {
    const e = await Promise.race([idleEnds, c.sleep(5000)])
    c.equal(e && e.code, '57P01')
  })
}

main().then(() => process.exit(0), (e) => {
  console.error(e)
  process.exit(1)
})
