"""What clients meet at their limits, with the SDK's own defaults: of these, to try three times."""
import os

import httpx
import pytest
from openai import APIStatusError, OpenAI

MODEL = "openai/gpt-4o-mini"
MESSAGES = [{"role": "user", "content": "Vocês abrem aos domingos?"}]


def counting(tenant):
    sent = []
    http = httpx.Client(event_hooks={"response": [lambda response: sent.append(response.headers)]})
    client = OpenAI(
        base_url=os.environ["E2E_CATRACA_URL"], api_key=os.environ[f"E2E_{tenant.upper()}_KEY"],
        default_headers={"X-Conversation-Id": "loop"}, http_client=http,
    )
    return client, sent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tenant,status,kind,code", [
    ("blocked", 402, "insufficient_quota", "budget_exceeded"),
    ("halted", 403, "permission_error", "tenant_paused"),
    ("looping", 429, "rate_limit_error", "loop_detected"),
])
def test_refused_once(tenant, status, kind, code, stream):
    client, sent = counting(tenant)
    with pytest.raises(APIStatusError) as raised:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
    err = raised.value
    assert (err.status_code, err.type, err.code) == (status, kind, code)
    if tenant == "blocked":
        assert err.body["budget"]["limit"] == "10"
    assert len(sent) == 1
    assert sent[0]["x-should-retry"] == "false"


@pytest.mark.parametrize("tenant,action,want", [("answered", "answer", "Fechado. Volte amanhã! 🥐"), ("handed", "handoff", "")])
def test_answered(tenant, action, want):
    client, sent = counting(tenant)
    assert client.chat.completions.create(model=MODEL, messages=MESSAGES).choices[0].message.content == want
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == want
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert client.completions.create(model=MODEL, prompt="oi").choices[0].text == want
    assert client.responses.create(model=MODEL, input="oi").output_text == want
    with client.responses.stream(model=MODEL, input="oi") as events:
        for _ in events:
            pass
        assert events.get_final_response().output_text == want
    assert len(sent) == 5
    assert all(h["x-catraca-limit"] == action and h["x-catraca-budget-limit"] == "10" for h in sent)
