"""One answer while it is written: tokens to read, and the next token from the logits after them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from edgeml_runtime.engines import Session
from edgeml_runtime.generate.cache import RUN_TOKENS_MAX, Cache
from edgeml_runtime.generate.calling import CallingAnswer
from edgeml_runtime.generate.detokenizer import Detokenizer
from edgeml_runtime.generate.sampling import Sampler
from edgeml_runtime.tasks import Finish, TokenDelta
from edgeml_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeml_runtime.generate.rounds import Rounds


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
