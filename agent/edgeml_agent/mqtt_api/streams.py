"""A generated text over MQTT while it is written: numbered messages, the last one with counts and why it ended.

A message has the tokens of a moment, since one for each token would flood a thin link. All have QoS 0, in order.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final, TypeAlias

from edgeml_agent.serve.calls import Steps
from edgeml_core.errors import EdgemlError, OverloadedError, UsageError
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Chat, Item, Prompt, TokenDelta

#: Seconds; tokens that arrive within them after a message are joined to one. That makes 20 messages a second at most.
JOINED_S: Final = 0.05
#: Tokens in one message; with 20 log probabilities each they take 150 KB.
JOINED_MAX_TOKENS: Final = 64

#: A token's text, and the version of the model that wrote it.
Piece: TypeAlias = tuple[str, TokenDelta]
#: Publishes the fields of one message; returns False when it is lost.
Publish: TypeAlias = Callable[[dict[str, object]], Awaitable[bool]]


def failure(error: EdgemlError) -> dict[str, object]:
    """Return the fields of an error."""
    after = {"retry_after_s": error.retry_after_s} if isinstance(error, OverloadedError) else {}
    return {**error.to_dict(), **after}


def too_large(message: str) -> UsageError:
    """Return the error of an answer that is too long for a message."""
    return UsageError("answer-too-large", message, "ask for less at a time, or use HTTP")


def generate(parse: Callable[[Model], Sequence[Item]], model: Model, emit: Callable[[Piece], None]) -> Steps[None]:
    """Generate one text in the model's thread.

    Raises:
        UsageError: `input-invalid`, when the request isn't one prompt or one conversation.
    """
    match parse(model):
        case [Prompt() | Chat() as item]:
            version = model.manifest.version
            yield from model.write(item, lambda delta: emit((version, delta)))
        case items:
            message = f"{len(items)} item(s) of the task {model.manifest.task} can't be streamed"
            raise UsageError("input-invalid", message, "leave stream out; one text of a language model can be streamed")


class Stream:
    """The messages of one request.

    Args:
        model: its name.
        publish: publishes them.
    """

    def __init__(self, model: str, publish: Publish) -> None:
        self._model = model
        self._publish = publish
        self._seq = 0
        self._held: list[TokenDelta] = []
        self._sent_s = -math.inf
        self._counts: dict[str, object] = {}

    async def run(self, pieces: AsyncGenerator[Piece], scope: AbstractAsyncContextManager[None]) -> None:
        """Publish all messages; an error is in the last one. A message that is lost ends the stream.

        Args:
            pieces: closed at the end, which ends the work for them at the next token.
            scope: around the work; ends it by a `TransportError` when the client cancels the request.
        """
        finish: str | None = None
        try:
            async with scope, aclosing(pieces):
                async for version, delta in pieces:
                    self._counts = {"prompt_tokens": delta.prompt_tokens, "tokens": delta.tokens, "version": version}
                    self._held.append(delta)
                    finish = delta.finish
                    if not finish and self._is_due() and not await self._send({}):
                        return
        except EdgemlError as error:
            await self.fail(error)
        else:
            await self._send({"finish": finish, "model": self._model, **self._counts})

    async def fail(self, error: EdgemlError) -> None:
        """Publish the last message of a request that failed, with the counts until then."""
        await self._send({"error": failure(error), **self._counts})

    def _is_due(self) -> bool:
        return len(self._held) >= JOINED_MAX_TOKENS or time.monotonic() - self._sent_s >= JOINED_S

    async def _send(self, end: dict[str, object]) -> bool:
        """Publish the held tokens, if they have text or this is the end."""
        text = "".join(delta.text for delta in self._held)
        logprobs = [delta.logprob for delta in self._held if delta.logprob]
        if not (text or logprobs or end):
            return True
        message: dict[str, object] = {"seq": self._seq, "text": text}
        if logprobs:
            message["logprobs"] = logprobs
        self._held, self._seq = [], self._seq + 1
        is_published = await self._publish(message | end)
        # The time of its end: tokens that a slow link made wait are joined.
        self._sent_s = time.monotonic()
        if not is_published and "error" not in end:
            # Without a connection this one is lost, too.
            await self.fail(too_large("the broker takes no message of that length"))
        return is_published
