"""The conversations of one model, which read in rounds: in each one every conversation writes a token, or reads a part.

Conversations that write share one run (`batch`). A prompt is read in parts between their runs, so that it delays them
by one part and not by all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from edgeml_runtime.engines import Session
from edgeml_runtime.generate.batch import Batch
from edgeml_runtime.generate.cache import RUN_TOKENS_MAX, Cache, CacheMemory, Caches, Decoder, memory_of_all
from edgeml_runtime.generate.calling import CallingAnswer
from edgeml_runtime.generate.detokenizer import Detokenizer
from edgeml_runtime.generate.sampling import Sampler
from edgeml_runtime.tasks import Finish, TokenDelta
from edgeml_runtime.tensors import Array

#: Tokens of a prompt that are read in one round, while other conversations write.
PART_TOKENS: Final = 64


class Text(NamedTuple):
    """The parts of an answer's text.

    Attributes:
        room: tokens that the answer may have.
        stop_ids: tokens that end it.
        answer: makes text and calls of its tokens.
        sampler: of this answer.
    """

    room: int
    stop_ids: Collection[int]
    answer: Detokenizer | CallingAnswer
    sampler: Sampler


class Conversation:
    """An answer to a prompt. It reads its unread tokens and writes the next one, in turn, until `finished`.

    Args:
        rounds: the conversations of its model.
        session: the loaded model.
        prompt: the token ids.
        text: of this answer.
    """

    def __init__(self, rounds: Rounds, session: Session, prompt: Sequence[int], text: Text) -> None:
        self.rounds: Final = rounds
        #: Tokens that the model must read before the next one is drawn.
        self.unread: Sequence[int] = prompt
        #: Whether the answer is complete.
        self.finished = False
        self._session, self._prompt, self._text, self._tokens = session, prompt, text, 0
        self._cache: Cache | None = None
        self._logits: Array | None = None

    @property
    def cache(self) -> Cache:
        """The cache, taken when it is first used: a conversation that waits for memory has none."""
        if self._cache is None:
            self._cache = self.rounds.take(self._session, self._prompt)
            self.unread = self._prompt[len(self._cache.tokens) :]
        return self._cache

    @property
    def waits(self) -> bool:
        """Whether it waits for memory, and reads nothing until an earlier one ends."""
        return not self.rounds.has_memory(self)

    @property
    def tokens_max(self) -> int:
        """The tokens of the prompt and of the longest answer."""
        return len(self._prompt) + self._text.room

    def read(self, tokens_max: int = RUN_TOKENS_MAX) -> None:
        """Read the next unread tokens in a run of their own, at most this number."""
        logits = self.cache.read(self.unread[:tokens_max])
        self.unread = self.unread[tokens_max:]
        if not self.unread:
            self._logits = logits

    def has_read(self, logits: Array) -> None:
        """Take the logits after the last unread token, float [vocabulary]."""
        self.unread, self._logits = (), logits

    def close(self) -> None:
        """End the answer, complete or not; the cache is kept for the next turn."""
        self.rounds.give_back(self)
        if self._cache is not None:
            self.rounds.end(self._cache)

    def write(self) -> TokenDelta | None:
        """Write the next token; None while tokens are unread.

        Raises:
            DeviceError: `runtime-failed`, when the logits are no numbers.
            UsageError: `input-invalid`, as for `Sampler.draw`.
        """
        if self._logits is None:
            return None
        drawn, self._logits = self._text.sampler.draw(self._logits), None
        self.unread = (drawn.token,)
        self._tokens += 1
        ends = drawn.token in self._text.stop_ids
        text = "" if ends else self._text.answer.add(drawn.token)
        finish: Finish | None = "length" if self._tokens == self._text.room else None
        if ends or self._text.answer.stopped or drawn.is_last:
            finish = "stop"
        if finish:
            text += self._text.answer.rest()
            self.finished = True
        answer = self._text.answer
        return TokenDelta(
            text=text,
            prompt_tokens=len(self._prompt),
            tokens=self._tokens,
            finish=finish,
            logprob=None if ends else drawn.logprob,
            calls=answer.take_calls() if isinstance(answer, CallingAnswer) else (),
        )


class Rounds:
    """The conversations of one language model. One thread at a time may use it.

    Args:
        decoder: makes the inputs.
        memory: of all caches in use; by default that of all models in this process.
    """

    def __init__(self, decoder: Decoder, memory: CacheMemory | None = None) -> None:
        self._memory = memory or memory_of_all()
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
