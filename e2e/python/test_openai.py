"""openai-python, the most used client of all."""
import pytest
from openai import APIStatusError, AsyncOpenAI, OpenAI
from pydantic import BaseModel

MODEL = "openai/gpt-4o-mini"
MESSAGES = [{"role": "user", "content": "Olá! Vocês abrem aos domingos? Tem pão de queijo? 🥐"}]
TOOLS = [{
    "type": "function",
    "function": {
        "name": "frete",
        "parameters": {"type": "object", "properties": {"bairro": {"type": "string"}, "peso": {"type": "integer"}}, "required": ["bairro", "peso"]},
    },
}]


def client(end):
    return OpenAI(**end, max_retries=0)


def test_plain(ends):
    ends.same(client, lambda c: c.chat.completions.create(model=MODEL, messages=MESSAGES).model_dump())


def test_stream_without_usage(ends):
    got = ends.same(client, lambda c: [x.model_dump(exclude_unset=True) for x in c.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)])
    assert len(got["value"]) > 3
    assert all("usage" not in chunk for chunk in got["value"])


def test_stream_with_usage(ends):
    got = ends.same(client, lambda c: [x.model_dump() for x in c.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True})])
    assert any(chunk.get("usage") for chunk in got["value"])


def test_tools(ends):
    got = ends.same(client, lambda c: c.chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS).model_dump())
    assert got["value"]["choices"][0]["finish_reason"] == "tool_calls"


def test_structured_output(ends):
    class Pedido(BaseModel):
        nome: str
        itens: list[str]
        pago: bool

    got = ends.same(client, lambda c: c.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Pedido).choices[0].message.parsed.model_dump())
    assert set(got["value"]) == {"nome", "itens", "pago"}


def test_embeddings(ends):
    got = ends.same(client, lambda c: c.embeddings.create(model="openai/text-embedding-3-small", input=["pão", "queijo"]).model_dump())
    assert len(got["value"]["data"]) == 2


def test_responses(ends):
    ends.same(client, lambda c: c.responses.create(model=MODEL, input="Qual o horário?").model_dump())
    ends.same(client, lambda c: [x.model_dump() for x in c.responses.create(model=MODEL, input="Qual o horário?", stream=True)])

    def kept(c):
        first = c.responses.create(model=MODEL, input="Qual o horário?")
        again = c.responses.retrieve(first.id)
        items = c.responses.input_items.list(first.id)
        c.responses.delete(first.id)
        return [first.model_dump(), again.model_dump(), [i.model_dump() for i in items.data]]

    ends.same(client, kept)


def test_audio(ends):
    spoken = {}

    def speak(c):
        spoken["bytes"] = c.audio.speech.create(model="openai/tts-1", voice="alloy", input="Bom dia!").read()
        return spoken["bytes"]

    ends.same(client, speak)
    for form in ("json", "text", "verbose_json"):
        ends.same(client, lambda c: str(c.audio.transcriptions.create(model="openai/whisper-1", response_format=form, file=("voz.ogg", spoken["bytes"]))))


@pytest.mark.parametrize("model", ["sim/400", "sim/401", "sim/402", "sim/403", "sim/404", "sim/429", "sim/500", "sim/503", "sim/string-error"])
def test_upstream_errors(ends, model):
    got = ends.same(client, lambda c: c.chat.completions.create(model=model, messages=MESSAGES).model_dump())
    assert "raised" in got


def test_our_errors(ends):
    with pytest.raises(APIStatusError) as err:
        client(ends.through | {"api_key": "ck_wrong"}).chat.completions.create(model=MODEL, messages=MESSAGES)
    assert (err.value.status_code, err.value.code) == (401, "invalid_api_key")
    with pytest.raises(APIStatusError) as err:
        client(ends.through).chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=-1)
    assert (err.value.status_code, err.value.param) == (400, "max_tokens")


@pytest.mark.parametrize("model", ["sim/cut-after-3", "sim/cut-mid-3", "sim/reset-after-3"])
def test_a_broken_stream_is_an_error(ends, model):
    with pytest.raises(Exception):
        for _ in client(ends.through).chat.completions.create(model=model, messages=MESSAGES, stream=True):
            pass


def test_leaving_in_mid_stream(ends):
    with client(ends.through).chat.completions.create(model="sim/slow-50", messages=MESSAGES, stream=True) as stream:
        for n, _ in enumerate(stream):
            if n == 3:
                break


def test_async(ends):
    import asyncio

    async def ask():
        async with AsyncOpenAI(**ends.through, max_retries=0) as c:
            one = c.chat.completions.create(model=MODEL, messages=MESSAGES)
            answers = await asyncio.gather(one, *[c.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(7)])
            return {a.choices[0].message.content for a in answers}

    assert len(asyncio.run(ask())) == 1
