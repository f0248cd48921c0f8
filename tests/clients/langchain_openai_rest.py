"""What LangChain's classes for OpenAI do with another server."""

from importlib.metadata import version

from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from clients.calls import Calls
from clients.openai_rest import TOOL

calls = Calls(f"langchain-openai {version('langchain-openai')}")
QUESTION = "Where is the valve?"
ANSWER = "In hall two, on the left."


def asked(url, **options):
    """The options of every class."""
    return {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, **options}


@calls.call("ChatOpenAI: invoke, with a system's message, stream, batch")
def chat(url):
    model = ChatOpenAI(**asked(url, model="chat", temperature=0))
    answer = model.invoke(QUESTION)
    assert (answer.content, answer.response_metadata["finish_reason"]) == (ANSWER, "stop")
    assert answer.usage_metadata["output_tokens"] > 5
    brief = model.invoke([("system", "Be brief."), ("human", "When did it stop?")])
    assert brief.content == "At a quarter past five."
    assert "".join(piece.content for piece in model.stream(QUESTION)) == ANSWER
    assert [it.content for it in model.batch([QUESTION] * 4)] == [ANSWER] * 4


@calls.call("ChatOpenAI: bind_tools, a tool's result, with_structured_output by a function")
def tools(url):
    model = ChatOpenAI(**asked(url, model="calls", temperature=0))
    bound = model.bind_tools([TOOL])
    called = bound.invoke("How warm is pump one?")
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("read_pump", {"pump": 1, "unit": "C"})
    result = ToolMessage('{"degrees": 41}', tool_call_id=call["id"])
    assert bound.invoke([("human", "How warm is pump one?"), called, result]).content == "Pump one has 41 degrees."
    reading = model.with_structured_output(TOOL, method="function_calling").invoke("Who checks the filter?")
    assert list(reading) == ["pump", "unit"]


@calls.call("ChatOpenAI by the Responses API: invoke, stream, bind_tools, a tool's result")
def responses(url):
    model = ChatOpenAI(**asked(url, model="chat", temperature=0, use_responses_api=True))
    assert model.invoke(QUESTION).text == ANSWER
    assert "".join(piece.text for piece in model.stream(QUESTION)) == ANSWER
    bound = ChatOpenAI(**asked(url, model="calls", temperature=0, use_responses_api=True)).bind_tools([TOOL])
    called = bound.invoke("How warm is pump one?")
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("read_pump", {"pump": 1, "unit": "C"})
    result = ToolMessage('{"degrees": 41}', tool_call_id=call["id"])
    assert bound.invoke([("human", "How warm is pump one?"), called, result]).text == "Pump one has 41 degrees."


@calls.call("OpenAI: invoke, stream")
def completion(url):
    model = OpenAI(**asked(url, model="chat", temperature=0, max_tokens=30))
    assert model.invoke("Water boils at") == " one hundred degrees."
    assert "".join(model.stream("Water boils at")) == " one hundred degrees."


@calls.call("OpenAIEmbeddings with check_embedding_ctx_length=False (by default it sends ids of OpenAI's tokenizer)")
def embeddings(url):
    model = OpenAIEmbeddings(**asked(url, model="meaning", check_embedding_ctx_length=False))
    assert [len(it) for it in model.embed_documents(["good film", "bad"])] == [2, 2]
    assert len(model.embed_query("good")) == 2


if __name__ == "__main__":
    calls.run()
