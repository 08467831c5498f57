-- The models: the plan's six rows as the plan has them, and beside them what a user would pick today. Prices are list prices
-- as known on 2026-11-22, each with where it is from in its note. `catraca model sync` and `catraca model set` follow them
-- with new rows. The gateway's slugs of the newest models (those with a dot in the version) are not confirmed yet.
--
-- A registry that already has the plan's rows keeps them as they are and gets prices and dates.

-- +goose Up
INSERT INTO ai_models_registry (id, provider, model_name, gateway_identifier, kind, capabilities, context_window, max_output_tokens,
    input_price_per_million, output_price_per_million, is_active, description) VALUES
    ('6dbfa339-6d2f-5c61-8c13-eac3099581be', 'openai', 'gpt-4o', 'openai/gpt-4o', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true}', 128000, 16384, 2.5, 10, true, 'OpenAI GPT-4o - Multimodal flagship model'),
    ('4cdbc529-aced-5ada-b9cd-216c5609bdd3', 'openai', 'gpt-4o-mini', 'openai/gpt-4o-mini', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true}', 128000, 16384, 0.15, 0.6, true, 'OpenAI GPT-4o Mini - Cost-effective multimodal'),
    ('a3a3120e-9247-5fe0-96da-2c7f822828c4', 'groq', 'llama-3.3-70b-versatile', 'groq/llama-3.3-70b-versatile', 'language', '{"text": true, "tools": true, "streaming": true}', 131072, 32768, 0.59, 0.79, true, 'Meta Llama 3.3 70B on Groq - Fast inference'),
    ('5db8f306-b353-59bb-ad35-7237f5565cb0', 'anthropic', 'claude-3-5-sonnet-20241022', 'anthropic/claude-3-5-sonnet-20241022', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true}', 200000, 8192, 3, 15, true, 'Anthropic Claude 3.5 Sonnet'),
    ('c6f5deaa-1eee-5e98-80d3-df1170414842', 'anthropic', 'claude-3-opus-20240229', 'anthropic/claude-3-opus-20240229', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true}', 200000, 4096, 15, 75, true, 'Anthropic Claude 3 Opus'),
    ('f84d4497-5028-54a3-b3cc-c57b6576099f', 'google', 'gemini-2.0-flash-exp', 'google/gemini-2.0-flash-exp', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true}', 1000000, 8192, 0, 0, true, 'Google Gemini 2.0 Flash'),
    ('1c789a8d-9996-5d71-936f-2c83d7cdd306', 'openai', 'gpt-6-luna', 'openai/gpt-6-luna', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', NULL, NULL, 0.1, 0.5, true, 'Small; what OpenAI names for GPT-4o and GPT-4o mini; reasons by default'),
    ('cd813308-a14b-549a-a742-0a085a9d6166', 'openai', 'gpt-6.1-terra', 'openai/gpt-6.1-terra', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', NULL, NULL, 1, 5, true, 'Medium; cache writes cost 1.25 for 30 minutes, 2.50 for 12 hours'),
    ('b9c06f93-902b-53ef-9e20-a4f1e10cf25d', 'openai', 'gpt-6.1-sol', 'openai/gpt-6.1-sol', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', NULL, NULL, 2, 10, true, 'Flagship; everything doubles for prompts over 272K tokens'),
    ('3cf5b2a7-51df-59c8-b21d-c6363d63978d', 'openai', 'gpt-5', 'openai/gpt-5', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', 400000, 128000, 1.25, 10, true, 'GPT-5'),
    ('2ab114c3-1f9d-5f4d-9352-ba440cd9c998', 'openai', 'gpt-5-mini', 'openai/gpt-5-mini', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', 400000, 128000, 0.25, 2, true, 'GPT-5 mini'),
    ('cb272793-34a1-5b85-9645-7356ce62a38f', 'openai', 'gpt-5-nano', 'openai/gpt-5-nano', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', 400000, 128000, 0.05, 0.4, true, 'GPT-5 nano'),
    ('641e79dc-a068-5900-b760-60f637ab4b67', 'openai', 'o3', 'openai/o3', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', 200000, 100000, 2, 8, true, 'o3'),
    ('5ef982b4-6640-548d-87fb-5dddd25ae3d1', 'anthropic', 'claude-haiku-5-5', 'anthropic/claude-haiku-5.5', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', NULL, NULL, 0.1, 0.5, true, 'Small; prompts over 100K tokens cost five times as much'),
    ('4f8531fc-f583-5fc9-a30d-08ab59f9a198', 'anthropic', 'claude-sonnet-5-5', 'anthropic/claude-sonnet-5.5', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', NULL, NULL, 2, 10, true, 'Medium'),
    ('16351c49-982d-51d1-8226-d622827bd0be', 'anthropic', 'claude-opus-5-5', 'anthropic/claude-opus-5.5', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', NULL, NULL, 4, 20, true, 'Large'),
    ('ba13e478-67fe-5911-b42f-7cdaed41300c', 'google', 'gemini-3.8-flash', 'google/gemini-3.8-flash', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', NULL, NULL, 0.75, 3.75, true, 'Medium; the price doubles when 2027 begins'),
    ('2cf15688-f748-52e7-aaa4-fa2cc6f39784', 'google', 'gemini-3.5-flash-lite', 'google/gemini-3.5-flash-lite', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', NULL, NULL, 0.3, 2.5, true, 'Small'),
    ('7624f947-2813-5f8b-8dad-e4dfa44d5e33', 'google', 'gemini-2.5-pro', 'google/gemini-2.5-pro', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', 1048576, 65536, 1.25, 10, true, 'Gemini 2.5 Pro; served and charged as 3.8 Flash from its retirement on'),
    ('30bbfa38-6407-533b-9f7a-1eaaa5b61134', 'google', 'gemini-2.5-flash', 'google/gemini-2.5-flash', 'language', '{"text": true, "vision": true, "tools": true, "streaming": true, "reasoning": true}', 1048576, 65536, 0.3, 2.5, true, 'Gemini 2.5 Flash; served and charged as 3.5 Flash Lite from its retirement on'),
    ('a585706f-95d5-5614-bbc3-0763327680ef', 'groq', 'openai/gpt-oss-120b', 'openai/gpt-oss-120b', 'language', '{"text": true, "tools": true, "streaming": true, "reasoning": true}', 131072, 65536, 0.15, 0.6, true, 'Open weights, 120B, on Groq; what Groq names for Llama 3.3 70B'),
    ('c80e3c80-b873-5668-8f18-f40ac3bae84c', 'groq', 'openai/gpt-oss-20b', 'openai/gpt-oss-20b', 'language', '{"text": true, "tools": true, "streaming": true, "reasoning": true}', 131072, 65536, 0.075, 0.3, true, 'Open weights, 20B, on Groq'),
    ('25580e79-8942-5d7f-b8ab-a542ac092be8', 'openai', 'text-embedding-3-small', 'openai/text-embedding-3-small', 'embedding', '{"embeddings": true}', 8192, NULL, 0.02, 0, true, 'Embeddings, 1536 dimensions'),
    ('d04bbe31-7b5a-59a9-b230-0c3cbbef3fe7', 'openai', 'text-embedding-3-large', 'openai/text-embedding-3-large', 'embedding', '{"embeddings": true}', 8192, NULL, 0.13, 0, true, 'Embeddings, 3072 dimensions'),
    ('4b695f4c-b5bd-5307-9793-c036caa071cf', 'openai', 'text-embedding-ada-002', 'openai/text-embedding-ada-002', 'embedding', '{"embeddings": true}', 8192, NULL, 0.1, 0, true, 'Embeddings of the second generation'),
    ('e1b9c677-0dd8-5cdf-83d2-70a91425e441', 'openai', 'whisper-1', 'openai/whisper-1', 'transcription', '{"transcription": true}', NULL, NULL, 0, 0, true, 'Speech to text, by the second'),
    ('c0706a69-dda2-586d-b032-148d240570b2', 'openai', 'gpt-4o-transcribe', 'openai/gpt-4o-transcribe', 'transcription', '{"transcription": true, "streaming": true}', 16000, 2000, 2.5, 10, true, 'Speech to text, by tokens'),
    ('44369c16-c853-5f1c-a358-cf7c337e75cb', 'openai', 'gpt-4o-mini-transcribe', 'openai/gpt-4o-mini-transcribe', 'transcription', '{"transcription": true, "streaming": true}', 16000, 2000, 1.25, 5, true, 'Speech to text, by tokens'),
    ('59a89da8-64ed-55f1-ae55-9e276a3885de', 'groq', 'whisper-large-v3', 'groq/whisper-large-v3', 'transcription', '{"transcription": true}', NULL, NULL, 0, 0, true, 'Speech to text on Groq, by the second'),
    ('c4bfddaa-267a-5a9f-b7f8-540b79f82c18', 'groq', 'whisper-large-v3-turbo', 'groq/whisper-large-v3-turbo', 'transcription', '{"transcription": true}', NULL, NULL, 0, 0, true, 'Speech to text on Groq, by the second'),
    ('19495db6-b72e-5a66-9825-7ee279887486', 'openai', 'tts-1', 'openai/tts-1', 'speech', '{"speech": true}', NULL, NULL, 0, 0, true, 'Text to speech, by the character'),
    ('533f93b2-5176-56e1-bf34-1c6f6e46eacf', 'openai', 'tts-1-hd', 'openai/tts-1-hd', 'speech', '{"speech": true}', NULL, NULL, 0, 0, true, 'Text to speech, by the character'),
    ('e4eac209-5247-5273-8644-70b3d55d5ab3', 'openai', 'gpt-4o-mini-tts', 'openai/gpt-4o-mini-tts', 'speech', '{"speech": true, "streaming": true}', 2000, NULL, 0.6, 12, true, 'Text to speech, by tokens'),
    ('e3c43957-44fa-59b0-bc40-14057812c08a', 'openai', 'omni-moderation-latest', 'openai/omni-moderation-latest', 'moderation', '{"moderation": true, "vision": true}', NULL, NULL, 0, 0, true, 'Moderation; free'),
    ('f1e265fc-85cf-590f-aa97-328490f84dbf', 'openai', 'gpt-image-1', 'openai/gpt-image-1', 'image', '{"image": true}', NULL, NULL, 5, 40, true, 'Images, by tokens'),
    ('46d1dab2-7053-58ea-9808-50dd4a858f42', 'openai', 'dall-e-3', 'openai/dall-e-3', 'image', '{"image": true}', NULL, NULL, 0, 0, true, 'Images, by the piece')
ON CONFLICT DO NOTHING;

-- When the providers switch them off, or did, and what they name instead. For gemini-2.0-flash-exp it is the day by which it was gone.
UPDATE ai_models_registry r SET retires_at = v.at::timestamptz, replacement = v.replacement FROM (VALUES
    ('openai/gpt-4o', '2027-01-14 00:00:00+00', 'openai/gpt-6-luna'),
    ('openai/gpt-4o-mini', '2027-01-14 00:00:00+00', 'openai/gpt-6-luna'),
    ('groq/llama-3.3-70b-versatile', '2026-08-16 00:00:00+00', 'openai/gpt-oss-120b'),
    ('anthropic/claude-3-5-sonnet-20241022', '2025-10-28 00:00:00+00', 'anthropic/claude-sonnet-5.5'),
    ('anthropic/claude-3-opus-20240229', '2026-01-05 00:00:00+00', 'anthropic/claude-opus-5.5'),
    ('google/gemini-2.0-flash-exp', '2026-02-18 00:00:00+00', 'google/gemini-3.5-flash-lite'),
    ('openai/gpt-5', '2026-12-11 00:00:00+00', 'openai/gpt-6.1-terra'),
    ('openai/gpt-5-mini', '2026-12-11 00:00:00+00', 'openai/gpt-6-luna'),
    ('openai/gpt-5-nano', '2026-12-11 00:00:00+00', 'openai/gpt-6-luna'),
    ('openai/o3', '2026-12-11 00:00:00+00', 'openai/gpt-6.1-terra'),
    ('google/gemini-2.5-pro', '2026-12-01 00:00:00+00', 'google/gemini-3.8-flash'),
    ('google/gemini-2.5-flash', '2026-12-01 00:00:00+00', 'google/gemini-3.5-flash-lite'),
    ('openai/dall-e-3', '2026-05-12 00:00:00+00', 'openai/gpt-image-1')
) AS v (gateway_identifier, at, replacement) WHERE r.gateway_identifier = v.gateway_identifier;

UPDATE ai_models_registry r SET kind = v.kind FROM (VALUES
    ('openai/text-embedding-3-small', 'embedding'),
    ('openai/text-embedding-3-large', 'embedding'),
    ('openai/text-embedding-ada-002', 'embedding'),
    ('openai/whisper-1', 'transcription'),
    ('openai/gpt-4o-transcribe', 'transcription'),
    ('openai/gpt-4o-mini-transcribe', 'transcription'),
    ('groq/whisper-large-v3', 'transcription'),
    ('groq/whisper-large-v3-turbo', 'transcription'),
    ('openai/tts-1', 'speech'),
    ('openai/tts-1-hd', 'speech'),
    ('openai/gpt-4o-mini-tts', 'speech'),
    ('openai/omni-moderation-latest', 'moderation'),
    ('openai/gpt-image-1', 'image'),
    ('openai/dall-e-3', 'image')
) AS v (gateway_identifier, kind) WHERE r.gateway_identifier = v.gateway_identifier;

-- Dollars for a million tokens. The last column is the price of a million characters.
INSERT INTO model_prices (id, model_id, effective_from, effective_to, source, note, input_usd, output_usd, cached_usd,
    cache_write_usd, audio_input_usd, character_usd, tiers)
SELECT v.id::uuid, r.id, v.since::timestamptz, v.until::timestamptz, 'seed', v.note, v.input::numeric * 0.000001,
    v.output::numeric * 0.000001, v.cached::numeric * 0.000001, v.cache_write::numeric * 0.000001,
    v.audio_input::numeric * 0.000001, v.million_characters::numeric * 0.000001, v.tiers::jsonb
FROM (VALUES
    ('d650c9c3-bd93-5933-b1ae-0d1a84752341', 'openai/gpt-4o', '2025-01-01 00:00:00+00', NULL, 2.5, 10, 1.25, NULL, NULL, 'genai-prices, read 2026-08-21', '[]', NULL),
    ('d9d1e28a-b202-5b9d-a974-7c2ae27e3fe9', 'openai/gpt-4o-mini', '2025-01-01 00:00:00+00', NULL, 0.15, 0.6, 0.075, NULL, NULL, 'genai-prices, read 2026-08-21', '[]', NULL),
    ('22042004-27b0-575f-8e87-86873f577944', 'groq/llama-3.3-70b-versatile', '2025-01-01 00:00:00+00', NULL, 0.59, 0.79, NULL, NULL, NULL, 'the plan''s', '[]', NULL),
    ('40100fa8-dba3-58bc-b38a-e0083b6f31dc', 'anthropic/claude-3-5-sonnet-20241022', '2025-01-01 00:00:00+00', NULL, 3, 15, 0.3, 3.75, NULL, 'genai-prices, read 2026-07-29', '[]', NULL),
    ('c1fffab2-7813-5364-ad8e-db57eef2aa49', 'anthropic/claude-3-opus-20240229', '2025-01-01 00:00:00+00', NULL, 15, 75, 1.5, 18.75, NULL, 'genai-prices, read 2026-07-29', '[]', NULL),
    ('cbd10a22-49f6-56dd-b8fe-971ec16c83dd', 'google/gemini-2.0-flash-exp', '2025-01-01 00:00:00+00', NULL, 0, 0, NULL, NULL, NULL, 'the plan''s: experimental, not charged', '[]', NULL),
    ('5fd4ed84-8b58-5865-beba-871bf68f6651', 'openai/gpt-6-luna', '2025-01-01 00:00:00+00', NULL, 0.1, 0.5, 0.01, 0.125, NULL, 'merefield/codexometer v0.18.4, 2026-09-22', '[]', NULL),
    ('4ac486eb-5e69-5049-b00e-a84ddcf22c85', 'openai/gpt-6.1-terra', '2025-01-01 00:00:00+00', NULL, 1, 5, 0.05, 1.25, NULL, 'apidog.com, 2026-10-27; write: 30 minutes', '[]', NULL),
    ('869a30a8-1f41-5145-86a6-255b02cc29a4', 'openai/gpt-6.1-sol', '2025-01-01 00:00:00+00', NULL, 2, 10, 0.1, NULL, NULL, 'KZCFG/AILSA, 2026-10-01', '[{"min_input": 272001, "input": "0.000004", "output": "0.00002", "cached": "0.0000002"}]', NULL),
    ('b0252c81-daff-514d-99d0-2647ddc90a0e', 'openai/gpt-5', '2025-01-01 00:00:00+00', NULL, 1.25, 10, 0.125, NULL, NULL, 'OpenAI''s price page, 2025', '[]', NULL),
    ('aecb92f8-f807-59c1-8d2c-21f57ef52fbf', 'openai/gpt-5-mini', '2025-01-01 00:00:00+00', NULL, 0.25, 2, 0.025, NULL, NULL, 'OpenAI''s price page, 2025', '[]', NULL),
    ('ebd013fa-f2cf-500d-884f-799eb4777de3', 'openai/gpt-5-nano', '2025-01-01 00:00:00+00', NULL, 0.05, 0.4, 0.005, NULL, NULL, 'OpenAI''s price page, 2025', '[]', NULL),
    ('4d746400-8578-512b-b0ec-0a31dadd6eb1', 'openai/o3', '2025-01-01 00:00:00+00', NULL, 2, 8, 0.5, NULL, NULL, 'OpenAI''s price page, 2025', '[]', NULL),
    ('aede79c0-8b84-5819-a782-ca136bcbbd90', 'anthropic/claude-haiku-5.5', '2025-01-01 00:00:00+00', NULL, 0.1, 0.5, 0.01, 0.125, NULL, 'kurofune/claudit v1.9.2, 2026-10-24; write: 1.25 of input, Anthropic''s rule for 5 minutes, not confirmed for this model', '[{"min_input": 100001, "input": "0.0000005", "output": "0.0000025", "cached": "0.00000005", "cache_write": "0.000000625"}]', NULL),
    ('d68bf2a4-b6b4-50a4-83e5-e4a45e64ea04', 'anthropic/claude-sonnet-5.5', '2025-01-01 00:00:00+00', '2026-10-07 00:00:00+00', 2, 10, 0.2, 2.5, NULL, 'kurofune/claudit v1.9.2, 2026-10-24; write: 1.25 of input, Anthropic''s rule for 5 minutes, not confirmed for this model', '[]', NULL),
    ('084e71bb-2967-5bb5-beb2-8396809d4f08', 'anthropic/claude-sonnet-5.5', '2026-10-07 00:00:00+00', NULL, 2, 10, 0.1, 2.5, NULL, 'kurofune/claudit v1.9.2, 2026-10-24: reading the cache became cheaper; write: 1.25 of input, Anthropic''s rule for 5 minutes, not confirmed for this model', '[]', NULL),
    ('98daee7f-1df1-5354-97aa-461dc826f29c', 'anthropic/claude-opus-5.5', '2025-01-01 00:00:00+00', NULL, 4, 20, 0.2, 5, NULL, 'TheKrush/PromptFuel v1.0.21, 2026-09-23; write: 1.25 of input, Anthropic''s rule for 5 minutes, not confirmed for this model', '[]', NULL),
    ('4d7e3bbf-129c-5b9e-ac6e-82b48816e069', 'google/gemini-3.8-flash', '2025-01-01 00:00:00+00', '2027-01-01 00:00:00+00', 0.75, 3.75, 0.075, NULL, NULL, 'deepmind-plans-pricing, 2026-10-07: introductory price', '[]', NULL),
    ('82890213-57cd-56d1-b63a-bdb5a24e9826', 'google/gemini-3.8-flash', '2027-01-01 00:00:00+00', NULL, 1.5, 7.5, 0.15, NULL, NULL, 'deepmind-plans-pricing, 2026-10-07', '[]', NULL),
    ('85e087e6-0874-52f5-98c3-c9cf22a0171a', 'google/gemini-3.5-flash-lite', '2025-01-01 00:00:00+00', NULL, 0.3, 2.5, 0.03, NULL, NULL, 'genai-prices, 2026-07-22', '[]', NULL),
    ('ef9ab3fd-e8a4-5641-a583-3b8eb7556009', 'google/gemini-2.5-pro', '2025-01-01 00:00:00+00', '2026-12-01 00:00:00+00', 1.25, 10, 0.125, NULL, NULL, 'Google''s price page, 2025', '[{"min_input": 200001, "input": "0.0000025", "output": "0.000015", "cached": "0.00000025"}]', NULL),
    ('5775e743-25cf-505d-bf22-31576bb93896', 'google/gemini-2.5-pro', '2026-12-01 00:00:00+00', '2027-01-01 00:00:00+00', 0.75, 3.75, 0.075, NULL, NULL, 'dev.to/aideprecations, 2026-11-10: as gemini-3.8-flash', '[]', NULL),
    ('2a9a474c-394e-50f4-980e-8cddc7e51893', 'google/gemini-2.5-pro', '2027-01-01 00:00:00+00', NULL, 1.5, 7.5, 0.15, NULL, NULL, 'dev.to/aideprecations, 2026-11-10: as gemini-3.8-flash', '[]', NULL),
    ('49ce2efe-f6b4-5cea-b90f-83baf6c07c70', 'google/gemini-2.5-flash', '2025-01-01 00:00:00+00', '2026-12-01 00:00:00+00', 0.3, 2.5, 0.03, NULL, 1, 'Google''s price page, 2025', '[]', NULL),
    ('434f0fa0-18c6-5591-9d13-e01174f70730', 'google/gemini-2.5-flash', '2026-12-01 00:00:00+00', NULL, 0.3, 2.5, 0.03, NULL, NULL, 'dev.to/aideprecations, 2026-11-10: as gemini-3.5-flash-lite', '[]', NULL),
    ('81e296e4-4564-522e-a886-101cbff42b15', 'openai/gpt-oss-120b', '2025-01-01 00:00:00+00', NULL, 0.15, 0.6, 0.075, NULL, NULL, 'genai-prices, 2025-08', '[]', NULL),
    ('3999fa50-c218-56a1-8238-afa6da1397c6', 'openai/gpt-oss-20b', '2025-01-01 00:00:00+00', NULL, 0.075, 0.3, 0.0375, NULL, NULL, 'genai-prices, 2025-08', '[]', NULL),
    ('3c1d7e60-f1ee-5be4-b4d8-32251e43f109', 'openai/text-embedding-3-small', '2025-01-01 00:00:00+00', NULL, 0.02, NULL, NULL, NULL, NULL, 'OpenAI''s price page', '[]', NULL),
    ('73c0f7bf-18f6-5e23-8fd4-5807f643f5d4', 'openai/text-embedding-3-large', '2025-01-01 00:00:00+00', NULL, 0.13, NULL, NULL, NULL, NULL, 'OpenAI''s price page', '[]', NULL),
    ('fe7d1f6a-64b7-5604-bf5f-58ace99a5ae7', 'openai/text-embedding-ada-002', '2025-01-01 00:00:00+00', NULL, 0.1, NULL, NULL, NULL, NULL, 'OpenAI''s price page', '[]', NULL),
    ('4783be3d-7b7b-58ad-8471-927cac4d4daf', 'openai/gpt-4o-transcribe', '2025-01-01 00:00:00+00', NULL, 2.5, 10, NULL, NULL, 6, 'OpenAI''s price page', '[]', NULL),
    ('d227aad1-3280-5b20-95a3-873675b8967e', 'openai/gpt-4o-mini-transcribe', '2025-01-01 00:00:00+00', NULL, 1.25, 5, NULL, NULL, 3, 'OpenAI''s price page', '[]', NULL),
    ('5c375a95-8072-5c32-80bc-64ad3a1d139a', 'openai/tts-1', '2025-01-01 00:00:00+00', NULL, NULL, NULL, NULL, NULL, NULL, 'OpenAI''s price page', '[]', 15),
    ('1a038c90-6405-50af-b290-10963fa39636', 'openai/tts-1-hd', '2025-01-01 00:00:00+00', NULL, NULL, NULL, NULL, NULL, NULL, 'OpenAI''s price page', '[]', 30),
    ('ec2507ee-fbdf-5063-85c6-f8f123069205', 'openai/gpt-4o-mini-tts', '2025-01-01 00:00:00+00', NULL, 0.6, 12, NULL, NULL, NULL, 'OpenAI''s price page', '[]', NULL),
    ('205ba2a2-0cf4-5ed6-b22a-ec8eb5d1c573', 'openai/omni-moderation-latest', '2025-01-01 00:00:00+00', NULL, 0, 0, NULL, NULL, NULL, 'OpenAI''s price page: free', '[]', NULL),
    ('99b9aecd-e6e1-5c3f-b931-063b335a2d9d', 'openai/gpt-image-1', '2025-01-01 00:00:00+00', NULL, 5, 40, 1.25, NULL, NULL, 'OpenAI''s price page; text prompts (a prompt''s images cost 10)', '[]', NULL)
) AS v (id, gateway_identifier, since, until, input, output, cached, cache_write, audio_input, note, tiers, million_characters)
JOIN ai_models_registry r ON r.gateway_identifier = v.gateway_identifier;

-- Dollars for a second transcribed and for an image.
INSERT INTO model_prices (id, model_id, effective_from, source, note, audio_second_usd, image_usd)
SELECT v.id::uuid, r.id, v.since::timestamptz, 'seed', v.note, v.audio_second::numeric, v.image::numeric
FROM (VALUES
    ('49ee4003-3a41-56c4-881d-d090ba652a15', 'openai/whisper-1', '2025-01-01 00:00:00+00', 0.0001, NULL, 'OpenAI''s price page: 0.006 a minute'),
    ('1b040726-f51e-55f0-ad4f-d7f773c6b604', 'groq/whisper-large-v3', '2025-01-01 00:00:00+00', 0.000030833334, NULL, 'Groq''s price page: 0.111 an hour'),
    ('5fd63a97-0c55-5dfb-8f23-4f399f1dcd22', 'groq/whisper-large-v3-turbo', '2025-01-01 00:00:00+00', 0.000011111112, NULL, 'Groq''s price page: 0.04 an hour'),
    ('0f98a72f-bc05-5a19-b901-dc13ba877b67', 'openai/dall-e-3', '2025-01-01 00:00:00+00', NULL, 0.04, 'OpenAI''s price page: standard, 1024x1024 (HD and larger ones cost 0.08 to 0.12)')
) AS v (id, gateway_identifier, since, audio_second, image, note)
JOIN ai_models_registry r ON r.gateway_identifier = v.gateway_identifier;

UPDATE ai_models_registry r SET cached_input_price_per_million = p.cached_usd * 1000000
FROM model_prices p
WHERE p.model_id = r.id AND p.cached_usd IS NOT NULL AND r.cached_input_price_per_million IS NULL
  AND p.effective_from <= now() AND (p.effective_to IS NULL OR p.effective_to > now());
