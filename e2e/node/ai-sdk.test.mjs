import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { embedMany, generateObject, generateText, streamText, tool } from 'ai'
import { z } from 'zod'
import { same, through } from './both.mjs'

const id = 'openai/gpt-4o-mini'
const prompt = 'Vocês entregam no bairro Savassi?'
const providers = {
  'openai provider, chat': (end) => createOpenAI(end).chat(id),
  'openai provider, responses': (end) => createOpenAI(end).responses(id),
  'openai-compatible provider': (end) => createOpenAICompatible({ name: 'catraca', ...end }).chatModel(id),
}
const entrega = tool({
  description: 'Calcula o frete.', inputSchema: z.object({ bairro: z.string(), peso: z.number() }),
})

for (const [name, model] of Object.entries(providers)) {
  test(`${name}: text`, async () => {
    const got = await same(model, async (m) => {
      const { text, usage, finishReason } = await generateText({ model: m, prompt, maxRetries: 0 })
      return { text, usage, finishReason }
    })
    assert.ok(got.value.text.length > 0)
    assert.ok(got.value.usage.totalTokens > 0)
  })
  test(`${name}: streamed text`, () => same(model, async (m) => {
    const result = streamText({ model: m, prompt, maxRetries: 0 })
    const parts = []
    for await (const part of result.textStream) parts.push(part)
    return { parts, finish: await result.finishReason }
  }))
  test(`${name}: tools`, () => same(model, async (m) => {
    const { toolCalls, finishReason } = await generateText({ model: m, prompt, tools: { entrega }, toolChoice: 'required', maxRetries: 0 })
    assert.equal(toolCalls.length, 1)
    return { input: toolCalls[0].input, finishReason }
  }))
  test(`${name}: an object of a schema`, () => same(model, async (m) => {
    const { object } = await generateObject({ model: m, prompt, schema: z.object({ bairro: z.string(), valor: z.number() }), maxRetries: 0 })
    return object
  }))
}

test('embeddings', () => same((end) => createOpenAI(end).embedding('openai/text-embedding-3-small'), async (m) => {
  const { embeddings, usage } = await embedMany({ model: m, values: ['pão', 'queijo'] })
  return { embeddings, usage }
}))

test('an upstream error is an error', async () => {
  await assert.rejects(generateText({ model: createOpenAI(through).chat('sim/500'), prompt, maxRetries: 0 }))
})
