// The two ends of every comparison: Catraca, and the simulator asked directly.
import assert from 'node:assert/strict'

const need = (name) => {
  const value = process.env[name]
  if (!value) throw new Error(`${name} is not set: run this through 'go test' in e2e/, which starts both servers`)
  return value
}

export const through = { baseURL: need('E2E_CATRACA_URL'), apiKey: need('E2E_CATRACA_KEY') }
export const straight = { baseURL: need('E2E_DIRECT_URL'), apiKey: need('E2E_DIRECT_KEY') }

// What two calls of the same thing may differ in: ids and clocks. Everything else must be equal.
const varies = new Set(['id', 'created', 'created_at', 'completed_at', 'generationId', 'response_id', 'responseId', 'item_id', 'call_id',
  'previous_response_id', 'startTime', 'endTime', 'providerResponseId', 'tool_call_id', 'toolCallId', 'timestamp', 'headers', 'obfuscation'])

export const settle = (value) => {
  if (Array.isArray(value)) return value.map(settle)
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).filter(([k, v]) => !varies.has(k) && typeof v !== 'function').map(([k, v]) => [k, settle(v)]))
  }
  return value
}

// same runs a call at both ends and compares what came back, or what was thrown.
export const same = async (makeClient, call) => {
  const run = async (end) => {
    try {
      return { value: settle(await call(makeClient(end))) }
    } catch (err) {
      if (err?.name === 'AssertionError') throw err
      return { thrown: err.constructor.name, status: err.status ?? err.statusCode, code: err.code, type: err.type, param: err.param }
    }
  }
  const [want, got] = [await run(straight), await run(through)]
  assert.deepEqual(got, want)
  return got
}
