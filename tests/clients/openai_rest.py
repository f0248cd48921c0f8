"""What openai's client does, synchronously and with asyncio."""

import asyncio
import json
from importlib.metadata import version
from typing import Annotated, Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from clients.calls import Calls, raised

calls = Calls(f"openai {version('openai')}")
QUESTION = [{"role": "user", "content": "Where is the valve?"}]
ANSWER = "In hall two, on the left."
GREEDY = {"model": "chat", "temperature": 0}


def client(url):
    """A client, as a user makes it."""
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def aio(url, **options):
    """The same for asyncio."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", **{"max_retries": 0, **options})


@calls.call("models: list, retrieve")
def models(url):
    assert sorted(it.id for it in client(url).models.list()) == [
        *("calls", "chat", "meaning", "mood", "recognizer", "tiny")
    ]
    assert client(url).models.retrieve("chat").owned_by == "edgeml"
    with raised(openai.NotFoundError, status_code=404):
        client(url).models.retrieve("other")


@calls.call("chat completion")
def chat(url):
    answer = client(url).chat.completions.create(messages=QUESTION, **GREEDY)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    assert answer.object == "chat.completion"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens > 5


@calls.call("chat completion with a system's message, text parts, earlier turns")
def conversation(url):
    first = client(url).chat.completions.create(messages=QUESTION, **GREEDY).choices[0].message
    parts = [{"type": "text", "text": "When did"}, {"type": "text", "text": " it stop?"}]
    later = [*QUESTION, first, {"role": "user", "content": parts}]
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "When did it stop?"}]
    for messages in (later, system):
        answer = client(url).chat.completions.create(messages=messages, **GREEDY)
        assert answer.choices[0].message.content == "At a quarter past five."


@calls.call("chat completion as a stream: role first, finish_reason last, usage when it is asked for")
def chat_stream(url):
    options = {"include_usage": True}
    stream = client(url).chat.completions.create(messages=QUESTION, stream=True, stream_options=options, **GREEDY)
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len(chunks) > 5
    assert last.choices == []
    assert last.usage.completion_tokens > 5
    assert {chunk.id for chunk in chunks} == {last.id}


@calls.call("chat completion through the client's own stream helper")
def chat_helper(url):
    with client(url).chat.completions.stream(messages=QUESTION, **GREEDY) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content == ANSWER
    assert {"chunk", "content.delta", "content.done"} <= kinds


@calls.call("completion, whole and as a stream")
def completion(url):
    asked = {"prompt": "Water boils at", "max_tokens": 30, **GREEDY}
    answer = client(url).completions.create(**asked)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" one hundred degrees.", "stop")
    chunks = list(client(url).completions.create(stream=True, **asked))
    assert "".join(chunk.choices[0].text for chunk in chunks) == " one hundred degrees."
    assert chunks[-1].choices[0].finish_reason == "stop"


@calls.call("responses: whole, as a stream, through the client's own stream helper, of its allowed length")
def responses(url):
    asking = client(url).responses
    asked = {"input": "Where is the valve?", **GREEDY}
    answer = asking.create(**asked)
    assert (answer.output_text, answer.status) == (ANSWER, "completed")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    events = list(asking.create(stream=True, **asked))
    assert "".join(it.delta for it in events if it.type == "response.output_text.delta") == ANSWER
    assert events[-1].response.output_text == ANSWER
    with asking.stream(**asked) as stream:
        assert stream.get_final_response().output_text == ANSWER
    assert asking.create(max_output_tokens=2, **asked).incomplete_details.reason == "max_output_tokens"


@calls.call("responses: a conversation of items, instructions, what isn't done")
def responses_items(url):
    asking = client(url).responses
    first = asking.create(input=QUESTION, **GREEDY)
    later = [*QUESTION, *first.output, {"role": "user", "content": "When did it stop?"}]
    brief = asking.create(input="When did it stop?", instructions="Be brief.", **GREEDY)
    for answer in (asking.create(input=later, **GREEDY), brief):
        assert answer.output_text == "At a quarter past five."
    with raised(openai.BadRequestError, param="previous_response_id"):
        asking.create(input="Where is the valve?", previous_response_id=first.id, **GREEDY)


@calls.call("max_tokens, stop, seed, top_p")
def options(url):
    asking = client(url).completions
    assert asking.create(prompt="Count:", max_tokens=4, **GREEDY).choices[0].finish_reason == "length"
    for stop in (" 3", [" 4", " 3"]):
        stopped = asking.create(prompt="Count:", max_tokens=50, stop=stop, **GREEDY).choices[0]
        assert (stopped.text, stopped.finish_reason) == (" 0 1 2", "stop")
    drawn = {"model": "chat", "prompt": "The", "temperature": 1.5, "max_tokens": 12}
    texts = [asking.create(seed=seed, **drawn).choices[0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len({asking.create(top_p=0, seed=seed, **drawn).choices[0].text for seed in (1, 2)}) == 1


@calls.call("n, whole, as a stream and through the client's own stream helper")
def several(url):
    asking = client(url).chat.completions
    drawn = {"model": "chat", "messages": QUESTION, "temperature": 1.5, "seed": 1, "max_tokens": 12, "n": 3}
    whole = asking.create(**drawn)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    for chunk in asking.create(stream=True, **drawn):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    with asking.stream(messages=QUESTION, n=2, **GREEDY) as stream:
        assert [it.message.content for it in stream.get_final_completion().choices] == [ANSWER, ANSWER]


@calls.call("logprobs and top_logprobs: chat completion, completion, responses, and through the stream helper")
def log_probabilities(url):
    asking, wanted = client(url), {"logprobs": True, "top_logprobs": 2}
    found = asking.chat.completions.create(messages=QUESTION, **wanted, **GREEDY).choices[0].logprobs.content
    assert b"".join(bytes(it.bytes) for it in found).decode() == ANSWER
    assert all(it.top_logprobs[0].logprob == it.logprob <= 0 and len(it.top_logprobs) == 2 for it in found)
    with asking.chat.completions.stream(messages=QUESTION, **wanted, **GREEDY) as stream:
        assert stream.get_final_completion().choices[0].logprobs.content == found
    older = asking.completions.create(prompt="Count:", max_tokens=5, logprobs=2, **GREEDY).choices[0]
    assert "".join(older.logprobs.tokens) == older.text
    assert len(older.logprobs.top_logprobs) == len(older.logprobs.text_offset) == 5
    asked = {"input": QUESTION, "include": ["message.output_text.logprobs"], "top_logprobs": 2, **GREEDY}
    (part,) = asking.responses.create(**asked).output[0].content
    assert [it.logprob for it in part.logprobs] == [it.logprob for it in found]
    with asking.responses.stream(**asked) as stream:
        assert stream.get_final_response().output[0].content[0].logprobs == part.logprobs


@calls.call("frequency_penalty, presence_penalty, logit_bias, and top_k, min_p, repetition_penalty in extra_body")
def penalties(url):
    asking = client(url).completions
    asked = {"model": "chat", "prompt": "The", "max_tokens": 12, "temperature": 1.5, "seed": 2}
    plain = asking.create(**asked).choices[0].text
    greedy = asking.create(**{**asked, "temperature": 0}).choices[0].text
    assert asking.create(frequency_penalty=2, presence_penalty=2, **asked).choices[0].text != plain
    assert len(asking.create(logit_bias={"7": 100}, **asked).choices[0].text) == 12
    for narrow in ({"top_k": 1}, {"min_p": 1}):
        assert asking.create(extra_body=narrow, **asked).choices[0].text == greedy
    assert asking.create(extra_body={"repetition_penalty": 5}, **asked).choices[0].text != plain


class Reading(BaseModel):
    """An answer of fields."""

    pump: Literal["one", "two"]
    degrees: Annotated[int, Field(ge=0, le=99)]
    stopped: bool


@calls.call("structured outputs: parse() of chat completions and responses, a stream of them, json_object, a regex")
def structured(url):
    asking, drawn = client(url), {"model": "chat", "temperature": 1}
    for _ in range(5):
        (choice,) = asking.chat.completions.parse(messages=QUESTION, response_format=Reading, **drawn).choices
        assert isinstance(choice.message.parsed, Reading)
        parsed = asking.responses.parse(input=QUESTION, text_format=Reading, **drawn).output_parsed
        assert isinstance(parsed, Reading)
    with asking.chat.completions.stream(messages=QUESTION, response_format=Reading, **drawn) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Reading)
    forms = {"type": "json_object"}, {"type": "regex", "value": "[0-9]{4}"}
    for form, begins in zip(forms, ("{", ""), strict=True):
        (choice,) = asking.chat.completions.create(messages=QUESTION, response_format=form, **drawn).choices
        assert choice.message.content.startswith(begins)
    assert len(choice.message.content) == 4
    with raised(openai.BadRequestError, "nonsense", param="response_format"):
        schema = {"name": "it", "schema": {"type": "nonsense"}}
        form = {"type": "json_schema", "json_schema": schema}
        asking.chat.completions.create(messages=QUESTION, response_format=form, **drawn)


TOOL = {
    "type": "function",
    "function": {
        "name": "read_pump",
        "description": "The state of a pump",
        "parameters": {
            "type": "object",
            "properties": {"pump": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
            "required": ["pump", "unit"],
            "additionalProperties": False,
        },
    },
}


@calls.call("tools: a call, its result summed up, a stream, the stream helper, a named function, parse()")
def tools(url):
    asking, greedy = client(url).chat.completions, {"model": "calls", "temperature": 0, "tools": [TOOL]}
    messages = [{"role": "user", "content": "How warm is pump one?"}]
    (choice,) = asking.create(messages=messages, **greedy).choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "read_pump")
    assert json.loads(call.function.arguments) == {"pump": 1, "unit": "C"}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 41}'}
    (later,) = asking.create(messages=[*messages, choice.message, result], **greedy).choices
    assert (later.message.content, later.finish_reason) == ("Pump one has 41 degrees.", "stop")
    parts = [chunk.choices[0].delta.tool_calls for chunk in asking.create(messages=messages, stream=True, **greedy)]
    assert "".join(part.function.arguments for (part,) in filter(None, parts)) == call.function.arguments
    with asking.stream(messages=messages, **greedy) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.arguments == call.function.arguments
    named = {"tool_choice": {"type": "function", "function": {"name": "Reading"}}, "temperature": 1}
    (parsed,) = asking.parse(
        messages=messages, **{**greedy, **named, "tools": [openai.pydantic_function_tool(Reading)]}
    ).choices
    assert isinstance(parsed.message.tool_calls[0].function.parsed_arguments, Reading)


@calls.call("responses with tools: a call, its result, a stream, the stream helper, a named function, parse()")
def responses_tools(url):
    flat = {"type": "function", **TOOL["function"], "strict": True}
    asking, greedy = client(url).responses, {"model": "calls", "temperature": 0, "tools": [flat]}
    question = {"role": "user", "content": "How warm is pump one?"}
    answer = asking.create(input=[question], **greedy)
    (call,) = answer.output
    assert (call.type, call.name) == ("function_call", "read_pump")
    assert json.loads(call.arguments) == {"pump": 1, "unit": "C"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"degrees": 41}'}
    assert asking.create(input=[question, call, result], **greedy).output_text == "Pump one has 41 degrees."
    events = list(asking.create(input=[question], stream=True, **greedy))
    parts = [it.delta for it in events if it.type == "response.function_call_arguments.delta"]
    assert "".join(parts) == call.arguments
    assert len(parts) > 3
    with asking.stream(input=[question], **greedy) as stream:
        snapshots = [it.snapshot for it in stream if it.type == "response.function_call_arguments.delta"]
        (streamed,) = stream.get_final_response().output
    assert snapshots[-1] == streamed.arguments == call.arguments
    assert streamed.parsed_arguments == {"pump": 1, "unit": "C"}
    named = {"tool_choice": {"type": "function", "name": "Reading"}, "temperature": 1}
    tools = [openai.pydantic_function_tool(Reading)]
    (drawn,) = asking.parse(input=[question], **{**greedy, **named, "tools": tools}).output
    assert isinstance(drawn.parsed_arguments, Reading)


@calls.call("embeddings by the client's default (base64), as floats, several at a time")
def embeddings(url):
    asking = client(url).embeddings
    (one,) = asking.create(model="meaning", input="good film").data
    (same,) = asking.create(model="meaning", input="good film", encoding_format="float").data
    assert one.embedding == same.embedding
    assert abs(sum(value * value for value in one.embedding) - 1) < 1e-5
    many = asking.create(model="meaning", input=["good film", "bad"])
    assert [it.index for it in many.data] == [0, 1]
    assert many.data[0].embedding == one.embedding != many.data[1].embedding
    assert many.usage.prompt_tokens == 7


@calls.call("asyncio: chat, stream, embeddings, eight at a time")
async def with_asyncio(url):
    async with aio(url) as asking:
        answers = await asyncio.gather(*(asking.chat.completions.create(messages=QUESTION, **GREEDY) for _ in range(8)))
        assert {answer.choices[0].message.content for answer in answers} == {ANSWER}
        stream = await asking.chat.completions.create(messages=QUESTION, stream=True, **GREEDY)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == ANSWER
        made = await asking.embeddings.create(model="meaning", input=["good"])
        assert len(made.data[0].embedding) == 2


@calls.call("asyncio: more at a time than are queued; the client obeys Retry-After, and all are answered")
async def with_retries(url):
    async with aio(url, max_retries=5) as asking:
        asked = [asking.chat.completions.create(messages=QUESTION, **GREEDY) for _ in range(48)]
        assert {answer.choices[0].message.content for answer in await asyncio.gather(*asked)} == {ANSWER}


@calls.call("errors: unknown model, wrong field, what isn't done, prompt too long")
def errors(url):
    asking = client(url)
    with raised(openai.NotFoundError, code="model_not_found"):
        asking.chat.completions.create(model="other", messages=QUESTION)
    for field, value in {"n": 9, "temperature": -1, "tools": [{"type": "function"}], "max_tokens": 0}.items():
        with raised(openai.BadRequestError, param=field, type="invalid_request_error"):
            asking.chat.completions.create(**{**GREEDY, "messages": QUESTION, field: value})
    with raised(openai.BadRequestError, param="dimensions"):
        asking.embeddings.create(model="meaning", input="good", dimensions=1)
    with raised(openai.BadRequestError, param="model"):
        asking.embeddings.create(model="mood", input="good")
    with raised(openai.BadRequestError, "check_embedding_ctx_length=False", param="input"):
        asking.embeddings.create(model="meaning", input=[[1, 2, 3]])
    long = [{"role": "user", "content": "valve " * 400}]
    for stream in (False, True):
        with raised(openai.BadRequestError, "reads 255", code="context_length_exceeded"):
            asking.chat.completions.create(messages=long, stream=stream, **GREEDY)
    with raised(openai.BadRequestError, "reads 16 tokens", code="context_length_exceeded"):
        asking.embeddings.create(model="meaning", input="good " * 40)
    with raised(openai.BadRequestError, "the request has no tools", param="tools"):
        asking.chat.completions.create(messages=[{"role": "tool", "content": "1", "tool_call_id": "1"}], **GREEDY)


if __name__ == "__main__":
    calls.run()
