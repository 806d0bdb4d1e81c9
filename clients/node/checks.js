// What the clients for Node.js share: the surroundings, and how a check is reported.
'use strict'

const fs = require('node:fs')

const env = process.env
exports.host = env.HOURGATE_HOST
exports.port = Number(env.HOURGATE_PORT)
exports.ca = fs.readFileSync(env.HOURGATE_CA, 'utf8')
exports.database = env.HOURGATE_DATABASE
exports.password = env.HOURGATE_PASSWORD
exports.user = env.HOURGATE_USER
exports.expiredUser = env.HOURGATE_EXPIRED_USER
exports.endingUser = env.HOURGATE_ENDING_USER
exports.greeting = 'Grüße, "naïve" ☃'

const say = (line) => console.log(line)
exports.say = say

// check reports what a function does as one check: ok, or FAIL with what it throws. The remark goes with ok.
exports.check = async (name, f, remark) => {
  try {
    await f()
    say(`ok ${name}` + (remark ? `: ${remark}` : ''))
  } catch (e) {
    say(`FAIL ${name}: ${String(e.stack || e).replace(/\s+/g, ' ')}`)
  }
}

// rejected is the error of a promise.
exports.rejected = (promise) =>
  promise.then(
    () => {
      throw new Error('no error')
    },
    (e) => e,
  )

exports.equal = (got, want) => {
  if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`)
}

exports.isRole = (name) => {
  if (!name.startsWith('hg_alice_work_')) throw new Error(`the session runs as ${name}`)
}

// isDenial holds an error against what somebody is told whose grant has ended.
exports.isDenial = (e) => {
  exports.equal([e.code, e.message], ['28000', `no live grant for "${exports.database}"`])
  if (!`${e.detail}`.includes('last-week')) throw new Error(`DETAIL: ${e.detail}`)
  if (!`${e.hint}`.includes('connect to: invoices')) throw new Error(`HINT: ${e.hint}`)
}

exports.sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
exports.undo = new Error('undo')
