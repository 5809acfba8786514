// Writes the tables of pg-boss, and a life as its send(), fetch() and complete() send it.
import { writeFileSync } from 'node:fs'

const dist = `${process.cwd()}/node_modules/pg-boss/dist`
const { getConstructionPlans } = await import(`${dist}/index.js`)
const plans = await import(`${dist}/plans.js`)

const schema = 'pgboss'
const name = 'life'
const table = 'job_common'
// The keys that send() sends if the caller gives no options. Spaces after colons, or pgbench would see variables.
const unset = { id: null, singletonKey: null, groupId: null, groupTier: null, deadLetter: null }
const job = { ...unset, name, data: { worker: 'w1' }, singletonOffset: 0 }
const jobs = JSON.stringify([job], null, 1).replaceAll('\n', '')

function statement (text, ...values) {
  return text.replace(/\$(\d)/g, (_, number) => values[number - 1]).trim()
}

const send = statement(plans.insertJobs(schema, { table, name }), `'${jobs}'`)
const fetch = statement(plans.fetchNextJob({ schema, table, name, policy: 'standard', limit: 1 }).text)
// A worker completes the attempt that it fetched.
const attempt = "ARRAY[:id::text || ':' || :retryCount::text]"
const complete = statement(plans.completeJobs(schema, table, false, true), `'${name}'`, 'ARRAY[:id]::uuid[]', 'NULL', attempt)

const queue = plans.createQueue(schema, name, { policy: 'standard' })
writeFileSync('schema.sql', `${getConstructionPlans(schema)};\n${queue};\n`)
writeFileSync('create.sql', `${send};\n`)
writeFileSync('life.sql', `${send};\n${fetch} \\gset\n${complete};\n`)
