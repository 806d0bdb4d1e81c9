// Drivers for Node.js in database "hourgate". The argument says which.
'use strict'

const fs = require('node:fs')

const env = (name) => process.env[`HOURGATE_${name}`]
const ssl = { ca: fs.readFileSync(env('CA'), 'utf8'), rejectUnauthorized: true, servername: env('HOST') }

const drivers = {
  pg: async (user, database) => {
    const { Client } = require('pg')
    const client = new Client({ host: env('HOST'), port: Number(env('PORT')), user, password: env('PASSWORD'), database, ssl })
    client.on('error', () => {})
    await client.connect()
    return { run: async (text, args) => (await client.query(text, args)).rows, close: () => client.end() }
  },
  postgres: async (user, database) => {
    const sql = require('postgres')({ host: env('HOST'), port: Number(env('PORT')), user, password: env('PASSWORD'), database, ssl, max: 1, fetch_types: false, onnotice: () => {} })
    return { run: (text, args) => sql.unsafe(text, args), close: () => sql.end() }
  },
}

const check = (name, got, ...wanted) => {
  const text = typeof got === 'string' ? got : JSON.stringify(got)
  const missing = wanted.filter((w) => !text.includes(w))
  console.log(missing.length ? `FAIL ${name}: no ${missing} in ${text}` : `ok ${name}`)
}

const error = async (f) => {
  try {
    return `no error: ${JSON.stringify(await f())}`
  } catch (e) {
    return `${e.code} ${e.message}`
  }
}

const main = async (connect) => {
  const once = async (user, database, text) => {
    const conn = await connect(user, database)
    try {
      return await conn.run(text)
    } finally {
      await conn.close()
    }
  }
  check('refused', await error(() => once(env('USER'), 'orders', 'SELECT 1')), 'no live grant')
  const conn = await connect(env('USER'), 'hourgate')
  check('access', await conn.run('SHOW ACCESS'), 'can ask', 'READ_WRITE', 'orders')
  check('request', await conn.run('REQUEST $1 ON $2 FOR $3 REASON $4', ['READ_WRITE', 'orders', '1 hour', "it's late"]), 'pending', "it's late")
  check('own', await error(() => conn.run('APPROVE $1', ['1'])), 'P0001', 'nobody decides their own request')
  const other = await connect(env('APPROVER'), 'hourgate')
  check('approve', await other.run('APPROVE $1', ['1']), 'active')
  await other.close()
  check('let-in', await once(env('USER'), 'orders', 'SELECT count(*)::int FROM customers'), '100')
  check('catalog', await error(() => conn.run('SELECT oid, relname FROM pg_catalog.pg_class')), '0A000', 'statements about access only')
  await conn.run('BEGIN')
  check('transaction', await conn.run('SHOW REQUESTS'), 'active')
  await conn.run('COMMIT')
  check('end', await conn.run('END 1'), 'ended by owner')
  check('end', await error(() => once(env('USER'), 'orders', 'SELECT 1')), 'no live grant')
  await conn.close()
}

main(drivers[process.argv[2]]).catch((e) => {
  console.log(`FAIL: ${e.stack}`)
  process.exitCode = 1
})
