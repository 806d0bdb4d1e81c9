// postgres.js.
'use strict'

const path = require('node:path')
const { pipeline } = require('node:stream/promises')
const { Readable } = require('node:stream')
const postgres = require('postgres')
const version = JSON.parse(require('node:fs').readFileSync(path.join(process.env.NODE_PATH, 'postgres/package.json'))).version
const c = require('./checks.js')

const connect = (user, password = c.password) =>
  postgres({
    host: c.host, port: c.port, database: c.database, user, password, max: 1,
    ssl: { ca: c.ca, rejectUnauthorized: true, servername: c.host },
    onnotice: () => {}, // it prints them otherwise: that the grant ends soon is one
  })

const main = async () => {
  c.say(`version ${version}`)
  c.say('tls verify-full')
  const sql = connect(c.user)
  const note = async () => (await sql`SELECT note FROM orders WHERE id = 1`)[0].note
  await c.check('login', async () => c.isRole((await sql`SELECT session_user AS name`)[0].name))
  await c.check('parameters', async () => {
    c.equal((await sql`SELECT ${40}::int + 2 AS sum, ${c.greeting}::text AS text`)[0], { sum: 42, text: c.greeting })
    const many = await Promise.all([...Array(20).keys()].map((n) => sql`SELECT ${n}::int AS n`)) // several on the way at once
    c.equal(many.map((r) => r[0].n), [...Array(20).keys()])
  })
  await c.check('rows', async () => {
    const rows = await sql`SELECT name FROM customers ORDER BY id`
    c.equal([rows.length, rows[0].name, rows[99].name], [100, 'Customer 1', 'Customer 100'])
    let some = 0
    for await (const batch of sql`SELECT * FROM customers`.cursor(7)) some += batch.length
    c.equal(some, 100)
  })
  await c.check('copy-out', async () => {
    let text = ''
    for await (const chunk of await sql`COPY customers TO STDOUT`.readable()) text += chunk
    c.equal(text.split('\n').length - 1, 100)
  })
  await c.check('copy-in', async () => {
    const e = await c.rejected(sql.begin(async (sql) => {
      const into = await sql`COPY orders (customer_id, note) FROM STDIN`.writable()
      await pipeline(Readable.from(['1\tcopied\n', '2\tcopied\n3\tcop', 'ied\n']), into)
      c.equal((await sql`SELECT count(*)::int FROM orders WHERE note = 'copied'`)[0].count, 3)
      throw c.undo
    }))
    if (e !== c.undo) throw e
  })
  await c.check('transaction', async () => {
    const change = (then) => sql.begin(async (sql) => {
      await sql`UPDATE orders SET note = 'changed' WHERE id = 1`
      if (then) throw then
    })
    c.equal(await c.rejected(change(c.undo)) === c.undo, true)
    c.equal(await note(), 'Order 1')
    await change()
    c.equal(await note(), 'changed')
  })
  await c.check('error', async () => {
    c.equal((await c.rejected(sql`SELECT * FROM no_such_table`)).code, '42P01')
    c.equal((await sql`SELECT 1 AS n`)[0].n, 1)
  })
  await c.check('cancel', async () => {
    const query = sql`SELECT pg_sleep(30)`
    const ended = c.rejected(query)
    await c.sleep(500)
    query.cancel()
    c.equal((await ended).code, '57014')
    c.equal((await sql`SELECT 1 AS n`)[0].n, 1)
  })
  await sql.end()
  await c.check('wrong-password', async () => {
    const e = await c.rejected(connect(c.user, 'wrong')`SELECT 1`)
    c.equal([e.code, e.message], ['28P01', `password authentication failed for user "${c.user}"`])
  })
  await c.check('expired-grant', async () => c.isDenial(await c.rejected(connect(c.expiredUser)`SELECT 1`)))

  const running = connect(c.endingUser)
  const idle = connect(c.endingUser)
  await running`SELECT 1`
  await idle`SELECT 1`
  c.say('end')
  await c.check('end-running', async () => c.equal((await c.rejected(running`SELECT pg_sleep(30)`)).code, 'CONNECTION_CLOSED'),
    'The driver tells that the connection was closed and not why. So it does when PostgreSQL itself ends a session.')
  await c.sleep(1000) // until the other has ended, too, and the driver has noticed
  await c.check('end-idle', async () => c.equal((await c.rejected(idle`SELECT 1`)).code, '28000'),
    'The driver drops the idle connection without a word and connects again, which is refused with 28000.')
}

main().then(() => process.exit(0), (e) => {
  console.error(e)
  process.exit(1)
})
