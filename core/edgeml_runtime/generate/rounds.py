"""The conversations of one model, which read in rounds: in each one every conversation writes a token, or reads a part.

Conversations that write share one run (`batch`). A prompt is read in parts between their runs, so that it delays them
by one part and not by all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Final

from edgeml_runtime.engines import Session
from edgeml_runtime.generate.batch import Batch
from edgeml_runtime.generate.cache import RUN_TOKENS_MAX, Cache, Caches, Decoder
from edgeml_runtime.generate.conversation import Conversation, Text
from edgeml_runtime.hardware import board

#: Tokens of a prompt that are read in one round, while other conversations write.
PART_TOKENS: Final = 64
#: Fraction of this process's memory for the caches of all conversations that are written at a time.
MEMORY_FRACTION: Final = 1 / 8


class CacheMemory:
    """The memory for the caches of several models, whose threads share it.

    Args:
        free_bytes: for all; a conversation that is the first one of its model may take more.
    """

    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._lock = Lock()

    def take(self, wanted_bytes: int, *, is_first: bool) -> bool:
        """Take memory until `give_back`, if there is room."""
        with self._lock:
            has_room = is_first or wanted_bytes <= self._free_bytes
            self._free_bytes -= wanted_bytes if has_room else 0
            return has_room

    def give_back(self, taken_bytes: int) -> None:
        """Give memory back."""
        with self._lock:
            self._free_bytes += taken_bytes


@cache
def _memory_of_all() -> CacheMemory:
    return CacheMemory(int(board.memory_max_bytes() * MEMORY_FRACTION))


class Rounds:
    """The conversations of one language model. One thread at a time may use it.

    Args:
        decoder: makes the inputs.
        memory: of all caches in use; by default that of all models in this process.
    """

    def __init__(self, decoder: Decoder, memory: CacheMemory | None = None) -> None:
        self._memory = memory or _memory_of_all()
        #: The bytes of each conversation that has memory.
        self._taken: dict[Conversation, int] = {}
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

    def has_memory(self, conversation: Conversation) -> bool:
        """Whether a conversation has its memory; others wait for theirs."""
        return conversation in self._taken

    def give_back(self, conversation: Conversation) -> None:
        """Give the memory of a conversation that ends to others."""
        self._memory.give_back(self._taken.pop(conversation, 0))

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
        for number, conversation in enumerate(conversations):
            if conversation not in self._taken:
                wanted_bytes = conversation.tokens_max * self._decoder.token_bytes()
                if not self._memory.take(wanted_bytes, is_first=not number):
                    return conversations[:number]
                self._taken[conversation] = wanted_bytes
            conversation.cache.reserve(conversation.tokens_max)
        return conversations
