"""The options of a generated text over HTTP: several answers, log probabilities, penalties, constrained forms."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import pytest
import torch
import transformers
from tests.integration.test_openai import ANSWER, CHAT, QUESTION, asked, events, serving
from tests.support.waiting import until_async

from edgeml import inference
from edgeml_runtime.generate.cache import Cache
from edgeml_runtime.generate.constraint import Constraints

COMPLETION = {"model": "chat", "prompt": "Count:", "max_tokens": 8, "temperature": 0}
DRAWN = {"model": "chat", "prompt": "The", "temperature": 1.5, "max_tokens": 12}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "left": {"type": "boolean"},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 2},
    },
    "required": ["name", "age", "left", "tags"],
    "additionalProperties": False,
}
#: Answers of the drawn campaign: all by night.
SEEDS = 1000 if os.environ.get("EDGEML_NIGHTLY") else 100


def test_the_tokenizer_is_read_for_forms_when_the_model_is_loaded(chatting, monkeypatch):
    """No request waits for it."""
    read, reading = [], Constraints._read_tokenizer
    monkeypatch.setattr(Constraints, "_read_tokenizer", lambda *given: read.append(given) or reading(*given))

    async def use(_, client):
        loaded = len(read)
        body = COMPLETION | {"response_format": {"type": "regex", "value": "[0-9]{3}"}}
        return loaded, (await client.post("/v1/completions", json=body)).json()["choices"][0]["text"]

    loaded, text = serving(chatting, use)
    assert (loaded, len(read), len(text)) == (1, 1, 3)


def test_several_answers_are_those_of_the_seeds_that_follow(chatting):
    """`n` answers to one request: each is the one answer to a request with its own seed."""
    (several, *each) = asked(
        chatting,
        ("/v1/completions", DRAWN | {"seed": 5, "n": 3}),
        *(("/v1/completions", DRAWN | {"seed": seed}) for seed in (5, 6, 7)),
    )
    found, expected = several.json(), [one.json() for one in each]
    assert [it["index"] for it in found["choices"]] == [0, 1, 2]
    assert [it["text"] for it in found["choices"]] == [it["choices"][0]["text"] for it in expected]
    assert len({it["text"] for it in found["choices"]}) > 1
    usage = found["usage"]
    assert usage["prompt_tokens"] == expected[0]["usage"]["prompt_tokens"]
    assert usage["completion_tokens"] == sum(it["usage"]["completion_tokens"] for it in expected)


def test_a_stream_of_several_answers_numbers_its_pieces(chatting):
    """Each answer begins with its role and ends with its reason; the usage counts all."""
    options = {"n": 2, "seed": 5, "temperature": 1.5, "max_tokens": 12}
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    whole, streamed = asked(
        chatting,
        ("/v1/chat/completions", CHAT | options),
        ("/v1/chat/completions", CHAT | options | stream),
    )
    *chunks, last = events(streamed)
    for index, expected in enumerate(whole.json()["choices"]):
        mine = [it["choices"][0] for it in chunks if it["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(it["delta"].get("content", "") for it in mine) == expected["message"]["content"]
        assert [it["finish_reason"] for it in mine] == [None] * (len(mine) - 1) + [expected["finish_reason"]]
    assert last["usage"] == whole.json()["usage"]


def test_a_client_that_leaves_ends_all_its_answers(chatting, monkeypatch):
    """The first is counted as answered, the second as given up, and no third one begins."""
    whole = Cache.read

    async def use(models, client):
        def slow(cache, ids):
            if counts(models)[0]:  # the second answer: it isn't over before the client has left
                time.sleep(1.0)
            return whole(cache, ids)

        monkeypatch.setattr(Cache, "read", slow)
        body = DRAWN | {"n": 8, "max_tokens": 5, "seed": 3, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if '"index":1' in line:
                    break
        await until_async(lambda: sum(counts(models)) == 2, "the end of the second answer")
        await models.run("chat", lambda _: None)
        return counts(models)

    def counts(models):
        return [tally.count for tally in models.counts.tally("chat")]

    assert serving(chatting, use) == [2, 1]


def rounded(given: Any) -> Any:
    """The same with numbers to three decimals: a prompt that was read before comes to other last digits."""
    match given:
        case float():
            return round(given, 3)
        case list():
            return [rounded(it) for it in given]
        case dict():
            return {key: rounded(it) for key, it in given.items()}
        case _:
            return given


def test_log_probabilities_are_those_that_torch_computes(chatting):
    """Of each token of a greedy chat, with the likeliest in its place; whole, streamed and as a task."""
    options = {"logprobs": True, "top_logprobs": 3}
    whole, streamed, task = asked(
        chatting,
        ("/v1/chat/completions", CHAT | options),
        ("/v1/chat/completions", CHAT | options | {"stream": True}),
        ("/v1/models/chat/predict", {"messages": QUESTION, "logprobs": 3}),
    )
    tokens = whole.json()["choices"][0]["logprobs"]["content"]
    pieces = [it["choices"][0]["logprobs"] for it in events(streamed)]
    assert rounded([it for piece in pieces if piece for it in piece["content"]]) == rounded(tokens)
    assert rounded(task.json()["outputs"][0]["logprobs"]) == rounded(tokens)
    assert bytes(byte for it in tokens for byte in it["bytes"]).decode() == ANSWER
    folder, _ = chatting
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt")
    written = tokenizer(ANSWER, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(torch.cat([given, written], dim=1)).logits[0, given.shape[1] - 1 : -1]
    for found, row, token in zip(tokens, logits.log_softmax(dim=-1), written[0], strict=True):
        assert found["token"] == tokenizer.decode(token)
        assert found["logprob"] == pytest.approx(float(row[token]), abs=1e-3)
        best = row.topk(3)
        assert [it["logprob"] for it in found["top_logprobs"]] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert found["top_logprobs"][0]["token"] == tokenizer.decode(best.indices[0])


def test_log_probabilities_of_a_completion_have_its_older_form(chatting):
    """Four lists of one length; the offsets are those of the tokens in the text."""
    whole, streamed = asked(
        chatting,
        ("/v1/completions", COMPLETION | {"logprobs": 2}),
        ("/v1/completions", COMPLETION | {"logprobs": 2, "stream": True}),
    )
    choice = whole.json()["choices"][0]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    for token, offset, likeliest, value in zip(
        found["tokens"], found["text_offset"], found["top_logprobs"], found["token_logprobs"], strict=True
    ):
        assert choice["text"][offset:].startswith(token)
        assert likeliest[token] == value == max(likeliest.values())
        assert len(likeliest) == 2
    pieces = [it["choices"][0]["logprobs"] for it in events(streamed) if it["choices"][0]["logprobs"]]
    assert rounded({key: [it for piece in pieces for it in piece[key]] for key in found}) == rounded(found)


def test_a_response_has_log_probabilities_where_it_includes_them(chatting):
    """In its last object and in the events."""
    body = {"model": "chat", "input": QUESTION[0]["content"], "temperature": 0, "top_logprobs": 2}
    body["include"] = ["message.output_text.logprobs"]
    whole, streamed, none = asked(
        chatting,
        ("/v1/responses", body),
        ("/v1/responses", body | {"stream": True}),
        ("/v1/responses", body | {"include": [], "top_logprobs": 0}),
    )
    tokens = whole.json()["output"][0]["content"][0]["logprobs"]
    assert "".join(it["token"] for it in tokens) == ANSWER
    assert {len(it["top_logprobs"]) for it in tokens} == {2}
    told = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    deltas = [it for it in told if it["type"] == "response.output_text.delta"]
    assert rounded([token for it in deltas for token in it["logprobs"]]) == rounded(tokens)
    assert told[-1]["response"]["output"][0]["content"][0]["logprobs"] == [
        token for it in deltas for token in it["logprobs"]
    ]
    assert none.json()["output"][0]["content"][0]["logprobs"] == []


def test_penalties_and_biases_write_what_their_formulas_choose(chatting):
    """Greedily: OpenAI's formula over torch's logits, token by token; `generate` of transformers for repetition."""
    folder, _ = chatting
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt, count = "The alarm", 30
    given = tokenizer(prompt, return_tensors="pt")["input_ids"]
    bias = {int(tokenizer("pump")["input_ids"][-1]): 9.5, model.config.eos_token_id: -100.0}
    body = {"model": "chat", "prompt": prompt, "temperature": 0, "max_tokens": count}
    penalties = {"frequency_penalty": 1.1, "presence_penalty": 2, "logit_bias": {str(it): bias[it] for it in bias}}
    endless = {"logit_bias": {str(model.config.eos_token_id): -100}}
    changed, repeated, plain = [
        it.json()["choices"][0]["text"]
        for it in asked(
            chatting,
            ("/v1/completions", body | penalties),
            ("/v1/completions", body | endless | {"repetition_penalty": 5}),
            ("/v1/completions", body | endless),
        )
    ]
    written: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.cat([given, torch.tensor([written], dtype=torch.long)], dim=1)).logits[0, -1]
            for token, value in bias.items():
                logits[token] += value
            for token in set(written):
                logits[token] -= written.count(token) * 1.1 + 2
            written.append(int(logits.argmax()))
        expected = model.generate(
            given,
            max_new_tokens=count,
            do_sample=False,
            repetition_penalty=5.0,
            sequence_bias=[[[model.config.eos_token_id], -100.0]],
        )
    assert changed == tokenizer.decode(written)
    assert repeated == tokenizer.decode(expected[0, given.shape[1] :], skip_special_tokens=True)
    assert len({changed, repeated, plain}) == 3


@pytest.mark.parametrize("path", ["chat/completions", "responses", "completions", "task"])
def test_a_schema_constrains_the_answer_of_each_api(path, chatting):
    """Whole and as a stream, at temperature 1: the text is JSON of that schema."""
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    flat = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    url, body = {
        "chat/completions": ("/v1/chat/completions", CHAT | {"response_format": form, "temperature": 1, "seed": 1}),
        "responses": ("/v1/responses", {"model": "chat", "input": "Who?", "text": {"format": flat}}),
        "completions": ("/v1/completions", DRAWN | {"max_tokens": 200, "response_format": form, "seed": 1}),
        "task": (
            "/v1/models/chat/predict",
            {"prompt": "Who?", "temperature": 1, "max_new_tokens": 200, "response_format": form},
        ),
    }[path]
    (response,) = asked(chatting, (url, body))
    found = response.json()
    text, end = {
        "chat/completions": lambda: (found["choices"][0]["message"]["content"], found["choices"][0]["finish_reason"]),
        "responses": lambda: (found["output"][0]["content"][0]["text"], found["status"]),
        "completions": lambda: (found["choices"][0]["text"], found["choices"][0]["finish_reason"]),
        "task": lambda: (found["outputs"][0]["text"], found["outputs"][0]["finish"]),
    }[path]()
    assert end in {"stop", "completed"}
    assert _fits(json.loads(text))
    if path == "responses":
        assert found["text"]["format"] == flat


def test_every_constrained_answer_parses(chatting):
    """At temperature 1, of many seeds: JSON of the schema, never a special token, and `stop` as its end."""
    form = {"type": "json_schema", "json_schema": {"schema": PERSON}}
    asking = {"prompt": "Who?", "temperature": 1.0, "max_new_tokens": 200, "response_format": form}
    found = _drawn(chatting, asking)
    assert len(found) == SEEDS
    assert {it["finish"] for it in found} == {"stop"}
    assert all(_fits(json.loads(it["text"])) for it in found)
    assert len({it["text"] for it in found}) > SEEDS // 2


def test_any_object_parses_unless_its_length_is_reached(chatting):
    """`json_object` bounds no length: an answer that is cut says so, and all others are objects."""
    asking = {"prompt": "Who?", "temperature": 1.0, "max_new_tokens": 60, "response_format": {"type": "json_object"}}
    ends = {"stop": 0, "length": 0}
    for found in _drawn(chatting, asking):
        ends[found["finish"]] += 1
        if found["finish"] == "stop":
            assert isinstance(json.loads(found["text"]), dict)
        else:
            assert found["tokens"] == 60
    assert min(ends.values()) > 0


def test_an_expression_constrains_a_stream(chatting):
    """Each piece is text of the answer; a length that cuts it is its reason."""
    form = {"response_format": {"type": "regex", "value": "[0-9]{3}-[a-f]{4}"}, "temperature": 1, "seed": 3}
    full, cut = asked(
        chatting,
        ("/v1/chat/completions", CHAT | form | {"stream": True}),
        ("/v1/chat/completions", CHAT | form | {"stream": True, "max_tokens": 2}),
    )
    choices = [[it["choices"][0] for it in events(response)] for response in (full, cut)]
    texts = ["".join(it["delta"].get("content", "") for it in one) for one in choices]
    assert re.fullmatch("[0-9]{3}-[a-f]{4}", texts[0])
    assert texts[0].startswith(texts[1])
    assert [one[-1]["finish_reason"] for one in choices] == ["stop", "length"]


def _drawn(chatting, asking):
    """The answers of all seeds; a request takes a hundred items."""
    requests = [asking | {"seed": seed} for seed in range(SEEDS)]
    return [it for at in range(0, SEEDS, 100) for it in inference.run(chatting[1].path, requests[at : at + 100])]


def _fits(value):
    """Whether a value is a person of the schema, by hand."""
    return (
        list(value) == ["name", "age", "left", "tags"]
        and len(value["name"]) <= 10
        and type(value["age"]) is int
        and 0 <= value["age"] <= 150
        and isinstance(value["left"], bool)
        and len(value["tags"]) <= 2
        and set(value["tags"]) <= {"new", "old"}
    )
