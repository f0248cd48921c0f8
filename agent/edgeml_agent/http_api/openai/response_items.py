"""Items of OpenAI's Responses API: those of a request to messages, and what the model writes to those of the answer.

An assistant's text and the calls behind it are items of their own, and one message of the conversation.

Source: https://platform.openai.com/docs/api-reference/responses, and what openai-python 3.54 sends and reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final, Literal, TypeAlias

import msgspec

from edgeml_agent.http_api.openai import requests
from edgeml_agent.http_api.openai import tools as tool_requests
from edgeml_agent.http_api.openai.errors import FieldError
from edgeml_runtime.generate.options import WrittenToken
from edgeml_runtime.tasks import CallingMessage, Message, TokenDelta

Status = Literal["in_progress", "completed", "incomplete"]
#: An event's type without "response.", and its content.
Event: TypeAlias = tuple[str, dict[str, object]]
_TEXTS: Final = ("input_text", "output_text", "text")


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str = ""


class Item(msgspec.Struct, frozen=True):
    """An item of a request: a message, a call of a function, or its result."""

    type: str = "message"
    role: str = ""
    content: str | tuple[_Part, ...] = ""
    call_id: str | None = None
    name: str = ""
    arguments: str = ""
    output: str | tuple[_Part, ...] = ""

    def message(self) -> Message:
        """Return the message of an item that is none of a turn of calls.

        Raises:
            FieldError: it is of another kind, or holds others than texts.
        """
        match self.type:
            case "message":
                return requests.message(self.role, _text(self.content))
            case "function_call":
                call = tool_requests.CallOf(self._call_id, tool_requests.CalledFunction(self.name, self.arguments))
                return tool_requests.calling("", (call,), field="input")
            case "function_call_output":
                return tool_requests.result(_text(self.output), self._call_id)
            case "item_reference":
                hint = "send the whole conversation; where a client refers to items, set store = false there"
                raise FieldError("input", "no response is stored here that an item could refer to", hint)
        raise FieldError("input", f"an item is a {self.type}", "send messages, calls of functions and their results")

    @property
    def _call_id(self) -> str:
        if self.call_id is None:
            raise FieldError("input", f"a {self.type} has no call_id", "send the id of the call")
        return self.call_id


def _text(content: str | tuple[_Part, ...]) -> str:
    if isinstance(content, str):
        return content
    if others := sorted({part.type for part in content} - set(_TEXTS)):
        raise FieldError("input", f"a message holds {', '.join(others)}", "send texts only")
    return "".join(part.text for part in content)


def messages(items: Sequence[Item]) -> list[Message]:
    """Return the conversation of items.

    Raises:
        FieldError: an item is of another kind, or holds others than texts.
    """
    found = list[Message]()
    for is_call, some in groupby((it.message() for it in items), key=lambda it: isinstance(it, CallingMessage)):
        turn = list(some)
        if not is_call:
            found += turn
            continue
        calls = tuple(call for it in turn if isinstance(it, CallingMessage) for call in it.calls)
        has_text = bool(found) and found[-1].role == "assistant"
        found.append(CallingMessage("assistant", found.pop().content if has_text else "", calls=calls))
    return found


class Output:
    """The items of an answer while the model writes it, and the events that report them.

    Args:
        answer_id: of the answer; the items' ids contain it.
        may_call: whether tokens without a text may belong to a call, which has no log probabilities.
    """

    def __init__(self, answer_id: str, *, may_call: bool) -> None:
        #: Those that have begun; the last one may go on.
        self.items: list[dict[str, Any]] = []
        self._id, self._may_call = answer_id, may_call
        self._tokens: list[WrittenToken] = []
        #: Tokens that have not shown yet whether they belong to the text.
        self._held: list[WrittenToken] = []

    def add(self, delta: TokenDelta) -> Iterator[Event]:
        """Take what one more token adds, and yield its events."""
        self._held += [delta.logprob] if delta.logprob else []
        if delta.text or (self._held and not self._may_call):
            yield from self._write(delta.text)
        for part in delta.calls:
            if part.name is not None:
                yield from self._end("completed")
                yield from self._begin_call(part.name)
            self._last["arguments"] += part.arguments
            if part.arguments:
                yield "function_call_arguments.delta", {**self._place, "delta": part.arguments}

    def finish(self, status: Status) -> Iterator[Event]:
        """End the last item, which is an empty message where there is none; no token follows."""
        if not self._is_call and (self._held or not self.items):
            yield from self._write("")
        yield from self._end(status)

    @property
    def _last(self) -> dict[str, Any]:
        return self.items[-1]

    @property
    def _is_call(self) -> bool:
        return bool(self.items) and self._last["type"] == "function_call"

    @property
    def _place(self) -> dict[str, object]:
        return {"item_id": self._last["id"], "output_index": len(self.items) - 1}

    def _write(self, text: str) -> Iterator[Event]:
        if not self.items:
            yield self._begin({"id": f"msg_{self._id}", "type": "message", "role": "assistant", "content": []})
            self._last["content"].append(_part())
            yield "content_part.added", {**self._place, "content_index": 0, "part": _part()}
        (part,) = self._last["content"]
        new, self._held = _logprobs(self._held), []
        part["text"] += text
        part["logprobs"] += new
        if text or new:
            yield "output_text.delta", {**self._place, "content_index": 0, "delta": text, "logprobs": new}

    def _begin_call(self, name: str) -> Iterator[Event]:
        self._held.clear()
        ids = {"id": f"fc_{self._id}_{len(self.items)}", "call_id": tool_requests.call_id()}
        yield self._begin({**ids, "type": "function_call", "name": name, "arguments": ""})

    def _begin(self, item: dict[str, Any]) -> Event:
        self.items.append({**item, "status": "in_progress"})
        return "output_item.added", {"output_index": len(self.items) - 1, "item": {**self._last}}

    def _end(self, status: Status) -> Iterator[Event]:
        if not self.items:
            return
        item = self._last
        item["status"] = status
        if item["type"] == "function_call":
            yield "function_call_arguments.done", {**self._place, "name": item["name"], "arguments": item["arguments"]}
        else:
            (part,) = item["content"]
            place = {**self._place, "content_index": 0}
            yield "output_text.done", {**place, "text": part["text"], "logprobs": part["logprobs"]}
            yield "content_part.done", {**place, "part": part}
        yield "output_item.done", {"output_index": len(self.items) - 1, "item": item}


def _part() -> dict[str, Any]:
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _logprobs(tokens: Sequence[WrittenToken]) -> list[dict[str, object]]:
    """Return tokens in the form of this API, in which unknown bytes are none."""
    return [
        {
            **it,
            "bytes": it["bytes"] or [],
            "top_logprobs": [{**one, "bytes": one["bytes"] or []} for one in it["top_logprobs"]],
        }
        for it in tokens
    ]
