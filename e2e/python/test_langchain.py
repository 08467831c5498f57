"""LangChain over the same wire."""
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

MODEL = "openai/gpt-4o-mini"
QUESTION = "Vocês entregam na Savassi?"


def chat(end, **more):
    return ChatOpenAI(model=MODEL, base_url=end["base_url"], api_key=end["api_key"], max_retries=0, **more)


def test_invoke(ends):
    got = ends.same(chat, lambda c: [(m := c.invoke(QUESTION)).content, dict(m.usage_metadata)])
    assert got["value"][1]["total_tokens"] > 0


def test_stream(ends):
    got = ends.same(lambda end: chat(end, stream_usage=True), lambda c: [m.content for m in c.stream(QUESTION)])
    assert len(got["value"]) > 3


def test_tools(ends):
    @tool
    def frete(bairro: str) -> str:
        """Calcula o frete."""
        return bairro

    got = ends.same(chat, lambda c: [t["args"] for t in c.bind_tools([frete]).invoke(QUESTION).tool_calls])
    assert got["value"]


def test_structured_output(ends):
    class Entrega(BaseModel):
        bairro: str
        valor: float

    ends.same(chat, lambda c: c.with_structured_output(Entrega).invoke(QUESTION).model_dump())


def test_embeddings(ends):
    def make(end):
        return OpenAIEmbeddings(model="openai/text-embedding-3-small", base_url=end["base_url"], api_key=end["api_key"],
                                check_embedding_ctx_length=False, max_retries=0)

    got = ends.same(make, lambda e: e.embed_documents(["pão", "queijo"]))
    assert len(got["value"]) == 2
