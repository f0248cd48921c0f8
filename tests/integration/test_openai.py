"""OpenAI's door over real models: the wire that its clients read, errors, and generation that ends with its client."""

import asyncio
import base64
import json
import socket
import threading
import time

import msgspec
import numpy as np
import pytest
from tests.integration.test_serving import TOKEN, server, unpacked
from tests.support import tiny_chat, tiny_models
from tests.support.tiny_calls import TOOL
from tests.support.waiting import until, until_async

from edgeml_agent.http_api.auth import Rules
from edgeml_agent.serve.worker import QUEUE_MAX
from edgeml_core.processing import Embedding
from edgeml_runtime.generate.cache import Cache
from edgeml_runtime.model import Model
from edgeml_runtime.unpack import unpacked as opened

QUESTION = [{"role": "user", "content": "Who checks the filter?"}]
ANSWER = tiny_chat.FACTS["Who checks the filter?"]
CHAT = {"model": "chat", "messages": QUESTION, "temperature": 0}
#: Half a minute of work, if nobody ended it: one slow token after the other.
SLOW_TOKEN_S = 0.15
LONG = {"model": "chat", "prompt": "The", "max_tokens": 200, "temperature": 1.5, "seed": 3}
#: Of 200 tokens: fewer are made where a client that leaves ends the work.
ENDED_TOKENS_MAX = 100


def embedding(folder):
    """A model of texts that makes one vector of each."""
    inside, manifest = unpacked(folder, tiny_models.tiny_text_bundle, name="meaning")
    pooled = Embedding(output="logits", pooling="mean", normalize=True)
    return inside, msgspec.structs.replace(manifest, task="feature-extraction", postprocess=pooled)


def serving(chatting, use, **options):
    """What `use(models, client)` returns, of a server with the model that chats."""

    async def main():
        async with server(**options) as (models, client):
            with opened(chatting[1].path) as bundle:
                await models.activate("chat", bundle.folder, bundle.manifest)
                return await use(models, client)

    return asyncio.run(main())


def asked(chatting, *requests, **options):
    """The responses to bodies at paths, in turn."""

    async def use(_, client):
        return [await client.post(path, json=body) for path, body in requests]

    return serving(chatting, use, **options)


def events(response):
    """What the lines of a stream hold."""
    lines = response.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_chat_is_answered_whole(chatting):
    """In the form that clients parse, with all that they require."""
    (response,) = asked(chatting, ("/v1/chat/completions", CHAT))
    found = response.json()
    assert found.pop("id").startswith("chatcmpl-")
    assert abs(found.pop("created") - time.time()) < 60
    assert found == {
        "object": "chat.completion",
        "model": "chat",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32},
    }


def test_a_stream_says_the_role_first_and_why_it_ends_last(chatting):
    """`finish_reason` is null until then, never missing; the usage comes behind, when it is asked for."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    (response,) = asked(chatting, ("/v1/chat/completions", CHAT | options))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last = events(response)
    (first, *_) = choices = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == ANSWER
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert choices[-1]["delta"] == {}
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 32)
    assert {(chunk["id"], chunk["object"]) for chunk in [*chunks, last]} == {(last["id"], "chat.completion.chunk")}


def test_a_stream_counts_its_tokens_as_they_come(chatting):
    """VLLM's `continuous_usage_stats`: each event has the counts until then, the last one those of the whole answer."""
    options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    (response,) = asked(chatting, ("/v1/chat/completions", CHAT | options))
    counts = [it["usage"]["completion_tokens"] for it in events(response)]
    assert (counts[0], counts[1], counts[-1]) == (0, 1, 7)
    assert counts == sorted(counts)
    assert {it["usage"]["prompt_tokens"] for it in events(response)} == {25}


def test_a_completion_streams_text_and_no_usage_unasked(chatting):
    """Its choices hold text; a stop is held back until it is known not to be one."""
    body = {"model": "chat", "prompt": "Count:", "max_tokens": 50, "temperature": 0, "stop": " 3 4", "stream": True}
    (response,) = asked(chatting, ("/v1/completions", body))
    chunks = events(response)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == " 0 1 2"
    assert chunks[-1]["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}
    assert not any("usage" in chunk for chunk in chunks)


def test_a_stream_that_was_read_counts_as_answered(chatting):
    """Not as given up by its client."""

    async def use(models, client):
        await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        return models.counts.tally("chat")

    good, bad = serving(chatting, use)
    assert (good.count, bad.count) == (1, 0)


def test_embeddings_are_the_same_in_base64_and_as_numbers(tmp_path):
    """Little-endian float32, in the order of the texts, each of length 1."""

    async def main():
        async with server() as (models, client):
            await models.activate("meaning", *embedding(tmp_path))
            body = {"model": "meaning", "input": ["good film", "bad", "bad good good"]}
            numbers = await client.post("/v1/embeddings", json=body)
            packed = await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})
            return numbers.json(), packed.json()

    numbers, packed = asyncio.run(main())
    assert packed["usage"] == numbers["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    vectors = [np.frombuffer(base64.b64decode(it["embedding"]), "<f4") for it in packed["data"]]
    assert np.array_equal(vectors, np.array([it["embedding"] for it in numbers["data"]], "<f4"))
    assert [vector.argmax() for vector in vectors] == [1, 0, 1]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_a_text_that_is_too_long_to_embed_is_refused_with_the_counts(tmp_path):
    """As OpenAI does; a vector of its beginning would pass for one of the whole."""

    async def main():
        async with server() as (models, client):
            await models.activate("meaning", *embedding(tmp_path))
            return await client.post("/v1/embeddings", json={"model": "meaning", "input": ["good", "bad " * 30]})

    response = asyncio.run(main())
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "reads 16 tokens at most; input 1 has 32" in error["message"]


#: Door, what is changed in a good request, the field that is named, and what is said.
REFUSED = (
    ("chat/completions", {"n": 9}, "n", "<= 8"),
    ("chat/completions", {"tools": [{"type": "function"}]}, "tools", "missing required field `function`"),
    ("chat/completions", {"tools": [TOOL | {"type": "web_search"}]}, "tools", "web_search"),
    ("chat/completions", {"tools": [TOOL]}, "tools", "the model takes no tools"),
    ("chat/completions", {"tools": [TOOL, TOOL]}, "tools", "two functions have the name 'read_pump'"),
    ("chat/completions", {"tools": [TOOL] * 129}, "tools", "length <= 128"),
    (
        "chat/completions",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "a"}}},
        "tool_choice",
        "'a'",
    ),
    ("chat/completions", {"tool_choice": "required"}, "tool_choice", "there are no tools"),
    ("chat/completions", {"functions": [{"name": "a"}]}, "functions", "not supported"),
    ("completions", {"prompt": "a", "tools": [TOOL]}, "tools", "not supported"),
    ("chat/completions", {"top_logprobs": 2}, "top_logprobs", "without logprobs"),
    ("chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20"),
    ("chat/completions", {"logit_bias": {"1": 101}}, "logit_bias", "<= 100"),
    ("chat/completions", {"logit_bias": {"pump": 1}}, "logit_bias", "`int`"),
    ("chat/completions", {"logit_bias": {"100000": 1}}, None, "logit_bias has the token 100000"),
    ("chat/completions", {"frequency_penalty": 3}, "frequency_penalty", "<= 2"),
    ("chat/completions", {"response_format": {"type": "grammar"}}, "response_format", "grammar"),
    ("chat/completions", {"response_format": {"type": "regex", "value": "["}}, "response_format", "regex"),
    (
        "chat/completions",
        {"response_format": {"type": "regex", "value": "a" * 40_000}},
        "response_format",
        "32768",
    ),
    ("responses", {"input": "a", "text": {"format": {"type": "regex", "value": "["}}}, "text", "regex"),
    ("responses", {"input": "a", "tools": [{"type": "function"}]}, "tools", "required field `name`"),
    ("completions", {"prompt": "a", "best_of": 2}, "best_of", "best_of with a value other than 1"),
    ("chat/completions", {"temperature": "hot"}, "temperature", "`float | null`"),
    ("chat/completions", {"messages": []}, "messages", "length >= 1"),
    ("chat/completions", {"messages": [{"role": "user", "content": None}]}, "messages", "no content"),
    (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages",
        "image_url",
    ),
    ("completions", {"prompt": ["a", "b"]}, "prompt", "one text"),
    ("completions", {"prompt": [1, 2]}, "prompt", "one text"),
    ("completions", {}, "prompt", "prompt"),
    ("completions", {"prompt": "a", "logprobs": 21}, "logprobs", "<= 20"),
    ("completions", {"prompt": ""}, None, "0 tokens"),
    ("embeddings", {"input": [1, 2]}, "input", "elements that are no texts"),
    ("embeddings", {"input": "a", "dimensions": 2}, "dimensions", "not supported"),
    ("embeddings", {"input": "a"}, "model", "no embeddings"),
    ("embeddings", {"input": []}, "input", "length >= 1"),
)


def test_what_is_not_done_is_refused_by_its_name(chatting):
    """With status 400, in the form that OpenAI's clients show."""
    requests = [
        (f"/v1/{path}", (CHAT if path == "chat/completions" else {"model": "chat"}) | change)
        for path, change, _, _ in REFUSED
    ]
    for response, (_, _, param, why) in zip(asked(chatting, *requests), REFUSED, strict=True):
        assert response.status_code == 400, why
        error = response.json()["error"]
        assert why in error.pop("message")
        assert error == {"type": "invalid_request_error", "param": param, "code": "input-invalid"}


def test_fields_that_change_nothing_are_taken(chatting):
    """Clients send them by habit."""
    habits = {"n": 1, "user": "u", "frequency_penalty": 0.0, "response_format": {"type": "text"}, "store": False}
    (response,) = asked(chatting, ("/v1/chat/completions", CHAT | habits | {"max_completion_tokens": 2}))
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.json()["usage"]["completion_tokens"] == 2


def test_a_prompt_that_is_too_long_is_refused_with_the_counts(chatting):
    """Before any event, also for a stream; never cut."""
    long = {"model": "chat", "prompt": " one" * 300}
    for stream in (False, True):
        (response,) = asked(chatting, ("/v1/completions", long | {"stream": stream}))
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "600 tokens" in error["message"]
        assert "reads 255" in error["message"]


def test_errors_of_the_server_have_the_same_form(chatting):
    """An unknown model, a body that is no JSON, a missing token."""

    async def use(_, client):
        return [
            await client.post("/v1/completions", json={"model": "other", "prompt": "a"}),
            await client.post("/v1/completions", content=b"{"),
            await client.post("/v1/completions", json={}, headers={"Authorization": "Bearer wrong"}),
        ]

    known = {"Authorization": f"Bearer {TOKEN}"}

    async def with_token(models, client):
        client.headers.update(known)
        return await use(models, client)

    responses = serving(chatting, with_token, rules=Rules(token=TOKEN))
    assert [response.status_code for response in responses] == [404, 400, 401]
    codes = ["model_not_found", "input-invalid", "invalid_api_key"]
    assert [response.json()["error"]["code"] for response in responses] == codes


def test_a_full_queue_says_when_to_come_back(chatting):
    """429 with `Retry-After`, which OpenAI's client obeys."""

    async def use(models, client):
        go_on = threading.Event()
        waiting = [asyncio.create_task(models.run("chat", lambda _: go_on.wait(60))) for _ in range(QUEUE_MAX)]
        await asyncio.sleep(0)
        refused = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        go_on.set()
        await asyncio.gather(*waiting)
        return refused

    refused = serving(chatting, use)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_failure_amid_a_stream_is_its_last_event(chatting, monkeypatch):
    """The status is out by then; clients look for `error` in each event."""
    whole = Model.write

    def failing(model, item, emit):
        steps = whole(model, item, emit)
        yield next(steps)
        next(steps)
        model.infer({})

    monkeypatch.setattr(Model, "write", failing)
    (response,) = asked(chatting, ("/v1/chat/completions", CHAT | {"stream": True}))
    assert response.status_code == 200
    *_, last = response.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "input-invalid"


@pytest.mark.parametrize("door", ["stream", "whole", "task", "reply"])
def test_generation_ends_at_the_next_token_when_its_client_leaves(door, chatting, monkeypatch):
    """A socket that is closed: no further token is made, and the model is free for the next request."""
    made = []
    whole = Cache.read

    def slow(cache, ids):
        time.sleep(SLOW_TOKEN_S)
        made.append(time.monotonic())
        return whole(cache, ids)

    path, body = {
        "stream": ("/v1/completions", LONG | {"stream": True}),
        "whole": ("/v1/completions", LONG),
        "task": ("/v1/models/chat/predict", {"prompt": "The", "max_new_tokens": 200, "temperature": 1.5, "seed": 3}),
        "reply": ("/chat", {"text": "The", "max_new_tokens": 200, "temperature": 1.5, "seed": 3}),
    }[door]

    async def use(models, client):
        monkeypatch.setattr(Cache, "read", slow)
        await asyncio.to_thread(_ask_and_leave, client.base_url.port, path, body, made)
        await until_async(lambda: not models.find("chat").queue_depth, "the end of the text")
        count = len(made)
        await asyncio.sleep(3 * SLOW_TOKEN_S)
        await models.run("chat", lambda _: None)
        return len(made) - count, count

    later, count = serving(chatting, use)
    assert later == 0
    assert 3 <= count <= ENDED_TOKENS_MAX


def _ask_and_leave(port, path, body, made):
    """Send a request, wait until three tokens are made, and close the connection."""
    content = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        until(lambda: len(made) >= 3, "three tokens")


def test_a_stream_arrives_as_it_is_written(chatting, monkeypatch):
    """Each token when it is made, not all of them in the end."""
    whole = Cache.read

    def slow(cache, ids):
        time.sleep(SLOW_TOKEN_S)
        return whole(cache, ids)

    async def use(_, client):
        monkeypatch.setattr(Cache, "read", slow)
        async with client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
            arrived = [time.monotonic() async for _ in response.aiter_lines()]
        return arrived[-1] - arrived[0]

    assert serving(chatting, use) > 4 * SLOW_TOKEN_S


RESPONSE = {"model": "chat", "input": "Who checks the filter?", "temperature": 0}


def test_a_response_is_answered_whole(chatting):
    """In the form that clients parse, with all that they require; also of message items."""
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION[0]["content"]}]}]
    short, spelled = asked(
        chatting, ("/v1/responses", RESPONSE), ("/v1/responses", RESPONSE | {"input": items, "store": False})
    )
    found = short.json()
    assert found["object"] == "response"
    assert (found["status"], found["error"], found["incomplete_details"], found["store"]) == (
        "completed",
        None,
        None,
        False,
    )
    (message,) = found["output"]
    assert message.pop("id").startswith("msg_")
    part = {"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}
    assert message == {"type": "message", "status": "completed", "role": "assistant", "content": [part]}
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"], found["usage"]["total_tokens"]) == (
        25,
        7,
        32,
    )
    assert spelled.json()["output"][0]["content"] == [part]


def test_instructions_are_the_systems_message(chatting):
    """The same text comes of them as of a chat that begins with it."""
    system = [{"role": "system", "content": "Be brief."}, *QUESTION]
    respond, chat = asked(
        chatting,
        ("/v1/responses", RESPONSE | {"instructions": "Be brief."}),
        ("/v1/chat/completions", CHAT | {"messages": system}),
    )
    assert respond.json()["usage"]["input_tokens"] == chat.json()["usage"]["prompt_tokens"]
    assert respond.json()["output"][0]["content"][0]["text"] == chat.json()["choices"][0]["message"]["content"]


def test_a_response_streams_numbered_events(chatting):
    """Each has its type twice, as a line and in its data; the last one holds the whole response."""
    (response,) = asked(chatting, ("/v1/responses", RESPONSE | {"stream": True}))
    blocks = [block.split("\n") for block in response.text.removesuffix("\n\n").split("\n\n")]
    found = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [kind for kind, _ in blocks] == [f"event: {it['type']}" for it in found]
    assert [it["sequence_number"] for it in found] == list(range(len(found)))
    kinds = [it["type"].removeprefix("response.") for it in found]
    opening, closing = ["created", "in_progress", "output_item.added", "content_part.added"], ["completed"]
    deltas = ["output_text.delta"] * (len(kinds) - 8)
    assert kinds == opening + deltas + ["output_text.done", "content_part.done", "output_item.done"] + closing
    assert "".join(it["delta"] for it in found if "delta" in it) == ANSWER == found[-4]["text"]
    assert found[-1]["response"]["output"] == [found[-2]["item"]]
    assert found[0]["response"]["id"] == found[-1]["response"]["id"]


def test_a_response_of_its_allowed_length_is_incomplete(chatting):
    """Whole and as a stream."""
    body = RESPONSE | {"max_output_tokens": 2}
    whole, stream = asked(chatting, ("/v1/responses", body), ("/v1/responses", body | {"stream": True}))
    assert (whole.json()["status"], whole.json()["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    assert stream.text.rstrip().split("\n")[-2] == "event: response.incomplete"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "grammar"}}}, "text"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"type": "function_call_output", "output": "1"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]}, "input"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_a_response_that_would_be_another_is_refused(chatting, fields, param):
    """By the field at fault, before anything is computed."""
    (response,) = asked(chatting, ("/v1/responses", RESPONSE | fields))
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_token_ids_to_embed_are_refused_with_the_way_out(tmp_path):
    """Langchain sends ids of OpenAI's tokenizer, which mean other words to any other model."""

    async def main():
        async with server() as (models, client):
            await models.activate("meaning", *embedding(tmp_path))
            given = ([1, 2], [[1, 2], [3]])
            return [await client.post("/v1/embeddings", json={"model": "meaning", "input": it}) for it in given]

    for response in asyncio.run(main()):
        assert response.status_code == 400
        assert "check_embedding_ctx_length=False" in response.json()["error"]["message"]
