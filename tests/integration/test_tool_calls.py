"""Tools over OpenAI's API: a model that has learnt to call them, to sum up their results, and to do without them."""

import copy
import itertools
import json
import sys

import msgspec
import pytest
from tests.integration.test_openai import asked, events
from tests.support.tiny_calls import BOTH, CALLS, PLAIN, TOOL

URL = "/v1/chat/completions"
FORM = {"type": "json_object"}


def chat(question, **more):
    """A request with the tool."""
    messages = [{"role": "user", "content": question}]
    return URL, {"model": "chat", "messages": messages, "temperature": 0, "tools": [TOOL], **more}


def called(choice):
    """The names and arguments of the calls in an answer without text."""
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert {(it["type"], len(it["id"])) for it in choice["message"]["tool_calls"]} == {("function", 9)}
    functions = [it["function"] for it in choice["message"]["tool_calls"]]
    return [(it["name"], json.loads(it["arguments"])) for it in functions]


def choices(responses):
    """The only answer of each."""
    assert [it.status_code for it in responses] == [200] * len(responses)
    return [it.json()["choices"][0] for it in responses]


def test_a_model_calls_a_tool_and_sums_up_its_result(calling):
    """By its own choice: one call, several, one of several where that is all that is allowed, none; then the result."""
    (question, arguments, result, answer), *_ = CALLS
    call = {
        "id": "abcdefghi",
        "type": "function",
        "function": {"name": "read_pump", "arguments": json.dumps(arguments)},
    }
    history = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": [{"type": "text", "text": result}]},
    ]
    one, several, first, plain, later = choices(
        asked(
            calling,
            chat(question),
            chat(BOTH[0]),
            chat(BOTH[0], parallel_tool_calls=False),
            chat(PLAIN[0]),
            chat("", messages=history),
        )
    )
    assert called(one) == [("read_pump", arguments)]
    assert called(several) == [("read_pump", it) for it in BOTH[1]]
    assert called(first) == called(several)[:1]
    for choice, text in ((plain, PLAIN[1]), (later, answer)):
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
        assert "tool_calls" not in choice["message"]


def test_a_choice_of_tools_is_kept(calling):
    """Against what the model has learnt: a required call, another function's, none; twice the same by its seed."""
    other = copy.deepcopy(TOOL)
    other["function"].update(name="stop", strict=True, description=None)
    named = {"type": "function", "function": {"name": "stop"}}
    drawn = {"tools": [TOOL, other], "tool_choice": named, "temperature": 1.5, "seed": 4, "n": 2}
    responses = asked(
        calling,
        chat(PLAIN[0], tool_choice="required"),
        chat(CALLS[0][0], tool_choice="none"),
        chat(CALLS[0][0], tool_choice="none", response_format=FORM, max_tokens=5),
        chat(PLAIN[0], **drawn),
        chat(PLAIN[0], **drawn),
    )
    required, none, formed, *_ = choices(responses)
    ((name, arguments),) = called(required)
    assert (name, list(arguments)) == ("read_pump", ["pump", "unit"])
    assert "<tool_call>" not in none["message"]["content"]
    assert formed["message"]["content"].startswith("{")
    twice = [[called(choice) for choice in it.json()["choices"]] for it in responses[3:]]
    assert twice[0] == twice[1]
    assert {name for calls in twice[0] for name, _ in calls} == {"stop"}


def test_a_stream_has_the_calls_in_parts(calling):
    """Id and name come first, then the arguments as they are written; a cut call says so."""
    full, cut = asked(calling, chat(BOTH[0], stream=True), chat(BOTH[0], stream=True, max_tokens=25))
    for response, ends in ((full, "tool_calls"), (cut, "length")):
        first, *parts, last = [it["choices"][0] for it in events(response)]
        assert first["delta"] == {"role": "assistant", "content": ""}
        assert (last["delta"], last["finish_reason"]) == ({}, ends)
        calls = []
        for (part,) in (it["delta"]["tool_calls"] for it in parts):
            if "id" in part:
                assert part["index"] == len(calls)
                calls.append("")
            calls[part["index"]] += part["function"]["arguments"]
        written = [json.dumps(it) for it in BOTH[1]]
        assert calls == written if response is full else written[0].startswith(calls[0])


def test_a_model_without_llguidance_calls_as_it_has_learnt(calling, monkeypatch):
    """Arguments that no grammar holds come whole; what must be held is refused."""
    monkeypatch.setitem(sys.modules, "llguidance", None)
    plain, stream, required = asked(
        calling, chat(BOTH[0]), chat(CALLS[0][0], stream=True), chat(BOTH[0], tool_choice="required")
    )
    assert called(plain.json()["choices"][0]) == [("read_pump", it) for it in BOTH[1]]
    deltas = [it["choices"][0]["delta"] for it in events(stream)]
    (function,) = [part["function"] for it in deltas for part in it.get("tool_calls", ())]
    assert json.loads(function["arguments"]) == CALLS[0][1]
    error = required.json()["error"]
    assert (required.status_code, error["param"]) == (400, "tools")
    assert "llguidance" in error["message"]


CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "read_pump", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("more", "param", "why"),
    [
        ({"response_format": FORM}, "response_format", "can't be used together"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "messages", "no tool_call_id"),
        ({"messages": [{"role": "tool", "content": "1", "tool_call_id": "a"}]}, None, "can't come first"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "a", "arguments": "[]"}}]}
                ]
            },
            "messages",
            "no JSON object",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}], "tools": []}, "tools", "the request has no tools"),
        ({"tools": [{**TOOL, "function": {"name": "a b"}}]}, "tools", "a tool can't be read"),
        (
            {
                "tools": [{**TOOL, "function": {"name": "a", "parameters": {"type": "array"}}}],
                "tool_choice": "required",
            },
            "tools",
            "aren't those of an object",
        ),
        (
            {
                "messages": [{"role": "user", "content": "a" * 90_000}],
                "tools": [TOOL] * 1 + [{**TOOL, "function": {"name": "long", "description": "b" * 20_000}}],
            },
            None,
            "the conversation has 110",
        ),
    ],
)
def test_a_request_with_wrong_tools_names_the_field(calling, more, param, why):
    """Before anything is computed."""
    (response,) = asked(calling, chat("Hello", **more))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert why in error["message"]


FLAT = {"type": "function", **TOOL["function"]}


def respond(asked_for, **more):
    """A request of the Responses API with the tool."""
    return "/v1/responses", {"model": "chat", "input": asked_for, "temperature": 0, "tools": [FLAT], **more}


def test_a_response_has_calls_as_items(calling):
    """Several, one of a named function, none; the request's tools and choice stand in the response."""
    named = {"type": "function", "name": "read_pump"}
    reported = {"include": ["message.output_text.logprobs"]}
    both, one, plain, calls = (
        it.json()
        for it in asked(
            calling,
            respond(BOTH[0]),
            respond(PLAIN[0], tool_choice=named, parallel_tool_calls=False),
            respond(PLAIN[0], **reported),
            respond(BOTH[0], **reported),
        )
    )
    assert [(it["type"], it["status"], it["name"]) for it in both["output"]] == [
        ("function_call", "completed", "read_pump")
    ] * 2
    assert [json.loads(it["arguments"]) for it in both["output"]] == BOTH[1]
    assert len({it[key] for it in both["output"] for key in ("id", "call_id")}) == 4
    assert (both["status"], both["tools"], both["tool_choice"]) == ("completed", [FLAT], "auto")
    (call,) = one["output"]
    assert (call["name"], one["tool_choice"], one["parallel_tool_calls"]) == ("read_pump", named, False)
    (part,) = plain["output"][0]["content"]
    assert part["text"] == "".join(it["token"] for it in part["logprobs"]) == PLAIN[1]
    assert [it["type"] for it in calls["output"]] == ["function_call"] * 2


def test_a_response_sums_up_the_results_of_items(calling):
    """The prompt is that of a chat with the same calls; a text before a call belongs to its message."""
    (question, arguments, result, answer), *_ = CALLS
    call = {"type": "function_call", "call_id": "abcdefghi", "name": "read_pump", "arguments": json.dumps(arguments)}
    output = {"type": "function_call_output", "call_id": "abcdefghi", "output": result}
    text = {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    user = {"role": "user", "content": question}
    function = {"name": "read_pump", "arguments": json.dumps(arguments)}
    message = {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": function}],
    }
    later = {"role": "tool", "tool_call_id": "abcdefghi", "content": result}
    found, with_text, as_chat = asked(
        calling,
        respond([user, call, output]),
        respond([user, text, call, output]),
        chat("", messages=[user, message, later]),
    )
    assert found.json()["output"][0]["content"][0]["text"] == answer
    assert with_text.json()["usage"]["input_tokens"] == as_chat.json()["usage"]["prompt_tokens"]


def test_a_response_streams_the_events_of_calls(calling):
    """Each item begins, grows and ends before the next one; a cut call is incomplete."""
    full, cut = asked(calling, respond(BOTH[0], stream=True), respond(BOTH[0], stream=True, max_output_tokens=25))
    for response, ends in ((full, "completed"), (cut, "incomplete")):
        blocks = [json.loads(it.partition("data: ")[2]) for it in response.text.removesuffix("\n\n").split("\n\n")]
        kinds = [it["type"].removeprefix("response.") for it in blocks]
        of_call = ["output_item.added", "function_call_arguments.delta"]
        of_call += ["function_call_arguments.done", "output_item.done"]
        once = [kind for kind, _ in itertools.groupby(kinds)]
        assert once == ["created", "in_progress", *of_call * ((len(once) - 3) // 4), ends]
        assert [it["sequence_number"] for it in blocks] == list(range(len(blocks)))
        done = [it["item"] for it in blocks if it["type"] == "response.output_item.done"]
        assert done == blocks[-1]["response"]["output"]
        assert done[-1]["status"] == ends
        texts = ["".join(it["delta"] for it in blocks if "delta" in it and it["item_id"] == one["id"]) for one in done]
        assert texts == [it["arguments"] for it in done]
        assert texts == [json.dumps(it) for it in BOTH[1]] or response is cut


#: More fields, the field at fault, and a part of the message.
WRONG = (
    ({"text": {"format": FORM}}, "text", "can't be used together"),
    ({"tools": [{"type": "web_search"}]}, "tools", "'web_search'"),
    ({"tools": [FLAT, FLAT]}, "tools", "the name 'read_pump'"),
    ({"tool_choice": {"type": "function", "name": "other"}}, "tool_choice", "no tool has the name 'other'"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice", "web_search"),
    ({"tools": [], "tool_choice": "required"}, "tool_choice", "there are no tools"),
    ({"input": [{"type": "function_call", "name": "a", "arguments": "{}"}]}, "input", "has no call_id"),
    ({"input": [{"type": "function_call_output", "output": "1"}]}, "input", "has no call_id"),
    ({"input": [{"type": "function_call", "call_id": "a", "arguments": "[]"}]}, "input", "no JSON object"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input", "an item is a reasoning"),
    (
        {"input": [{"type": "function_call", "call_id": "a", "arguments": "{}"}], "tools": []},
        "tools",
        "the request has no tools",
    ),
)


def test_a_response_with_wrong_tools_names_the_field(calling):
    """In the words of the Responses API."""
    responses = asked(calling, *(respond("Hello", **more) for more, *_ in WRONG))
    for response, (_, param, why) in zip(responses, WRONG, strict=True):
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param)
        assert why in error["message"]


def test_the_manifest_has_the_tools_as_data(calling):
    """Without them a bundle's chat template is the one that earlier agents know."""
    _, bundle = calling
    chat_template = bundle.manifest.preprocess.chat
    assert chat_template.tools.call.marker == "<tool_call>"
    written = msgspec.json.encode(msgspec.structs.replace(chat_template, tools=msgspec.UNSET))
    assert json.loads(written).keys() == {"between", "trim"}
