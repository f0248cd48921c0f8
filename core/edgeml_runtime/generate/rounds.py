"""The conversations of one model, which read in rounds: in each one every conversation writes a token, or reads a part.

Conversations that write share one run (`batch`). A prompt is read in parts between their runs, so that it delays them
by one part and not by all of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from edgeml_runtime.engines import Session
from edgeml_runtime.generate.batch import Batch
from edgeml_runtime.generate.cache import RUN_TOKENS_MAX, Cache, Caches, Decoder
from edgeml_runtime.generate.conversation import Conversation, Text

#: Tokens of a prompt that are read in one round, while other conversations write.
PART_TOKENS: Final = 64
#: Fraction of this machine's memory for the caches of all conversations that are written at a time.
MEMORY_FRACTION: Final = 1 / 8


class Rounds:
    """The conversations of one language model. One thread at a time may use it.

    Args:
        decoder: makes the inputs.
        memory_bytes: of all caches in use; a conversation alone may take more.
    """

    def __init__(self, decoder: Decoder, memory_bytes: int | None = None) -> None:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._tokens_max = (memory_bytes or int(total * MEMORY_FRACTION)) // max(1, decoder.token_bytes())
        self._decoder = decoder
        self._caches = Caches(decoder)
        self._batch: Batch | None = None

    def begin(self, session: Session, prompt: Sequence[int], text: Text) -> Conversation:
        """Begin a conversation, which must be closed."""
        return Conversation(self, session, prompt, text)

    def take(self, session: Session, prompt: Sequence[int]) -> Cache:
        """Take the cache of a conversation, which has read the beginning of its prompt, until `end`."""
        return self._caches.take(session, prompt)

    def read(self, conversations: Sequence[Conversation]) -> None:
        """Let each conversation read its newest token, and one of them a part of its prompt.

        Conversations that the memory has no room for wait for earlier ones to end.

        Args:
            conversations: of one session, in the order in which they came.

        Raises:
            DeviceError: `runtime-failed`.
        """
        active = [it for it in self._admitted(conversations) if it.unread]
        newest = [it for it in active if len(it.unread) == 1]
        prompts = [it for it in active if len(it.unread) > 1]
        batch = self._batch_of(active[0].cache.session) if len(active) > 1 else None
        if prompts:
            prompts[0].read(PART_TOKENS if batch and newest else RUN_TOKENS_MAX)
        if batch is None or len(newest) < 2:
            for conversation in newest:
                conversation.read()
            return
        logits = batch.read([it.cache for it in newest], [it.unread[0] for it in newest])
        for conversation, after in zip(newest, logits, strict=True):
            conversation.has_read(after)

    def end(self, cache: Cache) -> None:
        """Keep a conversation's cache, for its next turn; where there is no memory to move it, forget it and raise."""
        if self._batch is not None:
            try:
                self._batch.leave(cache)
            except Exception:
                self._caches.drop(cache)
                self._batch.drop(cache)
                raise
        self._caches.keep(cache)

    def _batch_of(self, session: Session) -> Batch | None:
        """Return the batch; None where a run of several rows or a part of a prompt gives other tokens."""
        self._batch = self._batch or Batch(self._decoder, session)
        return self._batch if self._batch.is_possible else None

    def _admitted(self, conversations: Sequence[Conversation]) -> Sequence[Conversation]:
        tokens = 0
        for number, conversation in enumerate(conversations):
            tokens += conversation.tokens_max
            if number and tokens > self._tokens_max:
                return conversations[:number]
            conversation.cache.reserve(conversation.tokens_max)
        return conversations
