// What clients meet at their limits, with the SDK's own defaults: of these, to try three times.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import OpenAI from 'openai'
import { through } from './both.mjs'

const model = 'openai/gpt-4o-mini'
const messages = [{ role: 'user', content: 'Vocês abrem aos domingos?' }]

const counting = (tenant) => {
  const sent = []
  const apiKey = process.env[`E2E_${tenant.toUpperCase()}_KEY`]
  assert.ok(apiKey, `no key of ${tenant}`)
  const client = new OpenAI({
    ...through, apiKey, defaultHeaders: { 'X-Conversation-Id': 'loop' },
    fetch: async (...args) => {
      const res = await fetch(...args)
      sent.push(res.headers)
      return res
    },
  })
  return { client, sent }
}

for (const [tenant, status, type, code] of [
  ['blocked', 402, 'insufficient_quota', 'budget_exceeded'],
  ['halted', 403, 'permission_error', 'tenant_paused'],
  ['looping', 429, 'rate_limit_error', 'loop_detected'],
]) {
  for (const stream of [false, true]) {
    test(`${tenant}, ${stream ? 'streamed' : 'plain'}: one request and no more`, async () => {
      const { client, sent } = counting(tenant)
      await assert.rejects(client.chat.completions.create({ model, messages, stream }), (err) => {
        assert.deepEqual([err.status, err.type, err.code], [status, type, code])
        if (tenant === 'blocked') assert.equal(err.error.budget.limit, '10')
        return true
      })
      assert.equal(sent.length, 1)
      assert.equal(sent[0].get('x-should-retry'), 'false')
    })
  }
}

for (const [tenant, action, want] of [['answered', 'answer', 'Fechado. Volte amanhã! 🥐'], ['handed', 'handoff', '']]) {
  test(`${tenant}: an answer like any other`, async () => {
    const { client, sent } = counting(tenant)
    const plain = await client.chat.completions.create({ model, messages })
    assert.equal(plain.choices[0].message.content, want)
    const final = await client.chat.completions.stream({ model, messages }).finalChatCompletion()
    assert.equal(final.choices[0].message.content ?? '', want)
    assert.equal(final.choices[0].finish_reason, 'stop')
    const usage = await client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } }).totalUsage()
    assert.equal(usage.total_tokens, 0)
    const text = await client.completions.create({ model, prompt: 'oi' })
    assert.equal(text.choices[0].text, want)
    const response = await client.responses.create({ model, input: 'oi' })
    assert.equal(response.output_text, want)
    const done = await client.responses.stream({ model, input: 'oi' }).finalResponse()
    assert.equal(done.output_text, want)
    assert.equal(sent.length, 6)
    for (const headers of sent) {
      assert.equal(headers.get('x-catraca-limit'), action)
      assert.equal(headers.get('x-catraca-budget-limit'), '10')
    }
  })
}
