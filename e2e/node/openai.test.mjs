import assert from 'node:assert/strict'
import { test } from 'node:test'
import OpenAI, { toFile } from 'openai'
import { zodResponseFormat } from 'openai/helpers/zod'
import { z } from 'zod'
import { same, through } from './both.mjs'

const model = 'openai/gpt-4o-mini'
const messages = [
  { role: 'system', content: 'Você é o atendente da padaria.' },
  { role: 'user', content: 'Olá! Vocês abrem aos domingos? Quanto custa o pão de queijo? 🥐' },
]
const client = (end) => new OpenAI({ ...end, maxRetries: 0 })
const tools = [{
  type: 'function',
  function: {
    name: 'buscar_pedido', description: 'Procura um pedido.',
    parameters: { type: 'object', properties: { numero: { type: 'integer' }, cidade: { type: 'string' } }, required: ['numero', 'cidade'] },
  },
}]
const collect = async (stream) => {
  const all = []
  for await (const chunk of stream) all.push(chunk)
  return all
}

test('plain chat', () => same(client, (c) => c.chat.completions.create({ model, messages })))
test('chat with everything the gateway does not know', () => same(client, (c) => c.chat.completions.create({
  model, messages, logprobs: true, top_logprobs: 2, n: 2, seed: 7, user: 'u', metadata: { a: '1' }, something_new: { deep: [1, 2.50, 'x'] },
})))
test('vision parts', () => same(client, (c) => c.chat.completions.create({
  model,
  messages: [{ role: 'user', content: [{ type: 'text', text: 'O que é isto?' }, { type: 'image_url', image_url: { url: 'data:image/png;base64,' + 'A'.repeat(4000) } }] }],
})))
test('streamed chat, usage not asked for', async () => {
  const got = await same(client, async (c) => collect(await c.chat.completions.create({ model, messages, stream: true })))
  assert.ok(got.value.length > 3)
  assert.ok(got.value.every((chunk) => !('usage' in chunk)), 'usage was not hidden')
})
test('streamed chat, usage asked for', async () => {
  const got = await same(client, async (c) => collect(await c.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } })))
  assert.ok(got.value.some((chunk) => chunk.usage?.total_tokens > 0))
})
test('tools, plain', async () => {
  const got = await same(client, (c) => c.chat.completions.create({ model, messages, tools }))
  assert.equal(got.value.choices[0].finish_reason, 'tool_calls')
})
test('tools, streamed through the helper', () => same(client, async (c) => {
  const done = await c.chat.completions.stream({ model, messages, tools }).finalChatCompletion()
  return done.choices
}))
test('structured output', async () => {
  const shape = z.object({ nome: z.string(), itens: z.array(z.object({ produto: z.string(), quantidade: z.number() })), pago: z.boolean() })
  const got = await same(client, (c) => c.chat.completions.parse({ model, messages, response_format: zodResponseFormat(shape, 'pedido') }))
  assert.ok(shape.safeParse(got.value.choices[0].message.parsed).success)
})
test('completions, plain and streamed', async () => {
  await same(client, (c) => c.completions.create({ model, prompt: 'Era uma vez' }))
  await same(client, async (c) => collect(await c.completions.create({ model, prompt: 'Era uma vez', stream: true })))
})
test('embeddings as base64 and as floats', async () => {
  const embed = { model: 'openai/text-embedding-3-small', input: ['pão', 'queijo'] }
  const got = await same(client, (c) => c.embeddings.create(embed))
  assert.equal(got.value.data.length, 2)
  await same(client, (c) => c.embeddings.create({ ...embed, encoding_format: 'float', dimensions: 8 }))
})
test('responses: plain, streamed, kept, listed, deleted', async () => {
  const ask = { model, input: 'Qual o horário?', store: true }
  await same(client, (c) => c.responses.create(ask))
  await same(client, async (c) => collect(await c.responses.create({ ...ask, stream: true })))
  await same(client, async (c) => {
    const first = await c.responses.create(ask)
    const second = await c.responses.create({ ...ask, previous_response_id: first.id })
    const kept = await c.responses.retrieve(first.id)
    const items = await c.responses.inputItems.list(first.id)
    await c.responses.delete(first.id)
    const gone = await c.responses.retrieve(first.id).then(() => 'still there', (err) => err.status)
    return { first, second, kept, items: items.data, gone }
  })
})
test('moderations', () => same(client, (c) => c.moderations.create({ model: 'openai/omni-moderation-latest', input: 'bom dia' })))
test('speech and transcription', async () => {
  const spoken = await same(client, async (c) => {
    const res = await c.audio.speech.create({ model: 'openai/tts-1', voice: 'alloy', input: 'Bom dia, aqui é da padaria.' })
    return { type: res.headers.get('content-type'), bytes: Buffer.from(await res.arrayBuffer()).toString('base64') }
  })
  assert.ok(spoken.value.bytes.length > 100)
  for (const response_format of ['json', 'text', 'srt', 'verbose_json']) {
    await same(client, async (c) => c.audio.transcriptions.create({
      model: 'openai/whisper-1', response_format, file: await toFile(Buffer.from(spoken.value.bytes, 'base64'), 'voz.ogg'),
    }))
  }
})
test('images', () => same(client, (c) => c.images.generate({ model: 'openai/dall-e-3', prompt: 'um pão de queijo', response_format: 'b64_json' })))

for (const status of [400, 401, 402, 403, 404, 408, 429, 500, 503]) {
  const name = status === 400 ? 'sim/string-error' : `sim/${status}`
  test(`an upstream's ${name} reaches the client as it was`, async () => {
    const got = await same(client, (c) => c.chat.completions.create({ model: name, messages }))
    assert.ok(got.thrown, 'no error was thrown')
  })
}
test('a stream that breaks is an error, never a short answer', async () => {
  const c = client(through)
  for (const cut of ['sim/cut-after-3', 'sim/cut-mid-3', 'sim/reset-after-3', 'sim/cut-utf8']) {
    let chunks = 0
    await assert.rejects(async () => {
      for await (const _ of await c.chat.completions.create({ model: cut, messages, stream: true })) chunks++
    }, undefined, `${cut}: the stream ended as if it were whole after ${chunks} chunks`)
  }
})
test('a client that leaves in mid-stream', async () => {
  const c = client(through)
  const stream = await c.chat.completions.create({ model: 'sim/slow-50', messages, stream: true, max_tokens: 400 })
  let seen = 0
  for await (const _ of stream) if (++seen === 3) break
  assert.equal(stream.controller.signal.aborted, true)
})
test('an abort while waiting for a plain answer', async () => {
  const c = client(through)
  const abort = new AbortController()
  setTimeout(() => abort.abort(), 300)
  await assert.rejects(c.chat.completions.create({ model: 'sim/first-5000', messages }, { signal: abort.signal }), { name: 'Error' })
})
test('models', async () => {
  const c = client(through)
  const list = await collect(c.models.list())
  assert.ok(list.some((m) => m.id === model))
  assert.equal((await c.models.retrieve(model)).id, model)
  await assert.rejects(c.models.retrieve('openai/no-such-model'), { status: 404, code: 'model_not_found' })
})
test('errors of ours are OpenAI errors', async () => {
  const wrong = new OpenAI({ ...through, apiKey: 'ck_wrong', maxRetries: 0 })
  await assert.rejects(wrong.chat.completions.create({ model, messages }), { status: 401, code: 'invalid_api_key' })
  const c = client(through)
  await assert.rejects(c.chat.completions.create({ model, messages, max_tokens: -1 }), { status: 400, param: 'max_tokens' })
})
