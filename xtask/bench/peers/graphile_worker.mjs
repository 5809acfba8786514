// Writes the tables of graphile-worker, and a life as its addJob(), and a worker that runs one job at a time, send it.
import { writeFileSync } from 'node:fs'

const dist = `${process.cwd()}/node_modules/graphile-worker/dist`
const { makeAddJob } = await import(`${dist}/helpers.js`)
const { migrations } = await import(`${dist}/generated/sql.js`)
const { batchGetJobs } = await import(`${dist}/sql/getJobs.js`)
const { batchCompleteJobs } = await import(`${dist}/sql/completeJobs.js`)

// A client that only notes the statements.
const sent = []
const client = {
  query (query, values) {
    const { text, values: parameters } = typeof query === 'string' ? { text: query, values } : query
    sent.push(text.replace(/\$(\d)/g, (_, number) => literal(parameters[number - 1])).replace(/;\s*$/, ''))
    return { rows: [{ id: 1, identifier: 'life' }] }
  }
}

function literal (value) {
  if (value === null) return 'NULL'
  return Array.isArray(value) ? `'{${value}}'` : String(value).startsWith(':') ? value : `'${value}'`
}

const withClient = async work => work(client)
withClient.withRetries = withClient
const schema = 'graphile_worker'
const worker = { preparedStatements: true, useNodeTime: false }
const options = { escapedWorkerSchema: schema, workerSchema: schema, resolvedPreset: { worker }, logger: console }

await makeAddJob(options, withClient)('life', { worker: 'w1' })
const [add] = sent.splice(0)
await batchGetJobs(options, withClient, { life: null }, 'worker', null, 1)
// Before it, the worker asks once for the numbers of its tasks.
const get = sent.splice(0).pop()
await batchCompleteJobs(options, withClient, 'worker', [{ id: ':id', job_queue_id: null }])
const [complete] = sent

// As its migrate() does it.
const scripts = Object.values(migrations).map(script => script.replaceAll(/:GRAPHILE_WORKER_SCHEMA\b/g, schema))
writeFileSync('schema.sql', `CREATE SCHEMA ${schema};
CREATE TABLE ${schema}.migrations (id integer PRIMARY KEY, ts timestamptz NOT NULL DEFAULT now(), breaking boolean NOT NULL DEFAULT false);
${scripts.map(script => `BEGIN;\n${script};\nCOMMIT;`).join('\n')}
INSERT INTO ${schema}._private_tasks (identifier) VALUES ('life');
`)
writeFileSync('create.sql', `${add};\n`)
writeFileSync('life.sql', `${add};\n${get} \\gset\n${complete};\n`)
