"""The choice of the next token from a model's logits.

The steps, in their order. Penalties and bias change logits:

1. `logit_bias` is added.
2. `repetition_penalty` divides positive logits and multiplies negative ones, of tokens in the prompt or the answer.
3. `frequency_penalty` times a token's count in the answer, and `presence_penalty` once, are subtracted.
4. A constraint forbids tokens.

At temperature 0 the largest logit wins. Else the remaining steps leave the tokens to draw from:

5. All logits are divided by the temperature.
6. `top_k` leaves the tokens with the k largest logits, and those equal to the last of them.
7. `top_p` leaves the likeliest tokens whose probabilities reach it together.
8. `min_p` leaves the tokens with at least this fraction of the likeliest one's probability.

Source: transformers 4.57, `generation/utils.py` `_get_logits_processor` for all but step 3, which is OpenAI's:
https://platform.openai.com/docs/guides/text-generation "Frequency and presence penalties". Log probabilities are the
model's own, before all steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeml_core.errors import DeviceError, UsageError
from edgeml_runtime.generate.logprobs import TokenTexts, written_token
from edgeml_runtime.generate.options import Continuation, WrittenToken
from edgeml_runtime.tensors import Array

#: Temperature below which only the likeliest token is ever drawn, and float32 overflows.
_TEMPERATURE_MIN: Final = 1e-6
_FORBIDDEN: Final = np.float32(-np.inf)


class Drawn(NamedTuple):
    """One token of an answer; `is_last` is true where a constraint allows no further one."""

    token: int
    logprob: WrittenToken | None = None
    is_last: bool = False


class Guide(Protocol):
    """Knows the tokens that may follow in an answer of a given form."""

    def allowed(self, size: int) -> NDArray[np.bool_]:
        """Return whether each of `size` tokens may follow, shape [size]."""

    def advance(self, token: int) -> bool:
        """Take the token that follows, and return whether the answer is complete."""


class Sampler:
    """Chooses the tokens of one answer, one after the other.

    Args:
        options: of the request.
        prompt: the prompt's token ids.
        texts: names tokens; needed where the request wants log probabilities.
        guide: of the request's constraint.
    """

    def __init__(
        self, options: Continuation, prompt: Sequence[int], texts: TokenTexts, guide: Guide | None = None
    ) -> None:
        self._options = options
        self._texts = texts
        self._guide = guide
        self._generator = np.random.default_rng(options.seed)
        self._repeated = set(prompt)
        self._written: Counter[int] = Counter()
        self._biased = _ids(options.logit_bias)
        self._biases = np.fromiter(options.logit_bias.values(), np.float32, len(options.logit_bias))
        self._penalizes = bool(options.frequency_penalty or options.presence_penalty)
        self._repeats = options.repetition_penalty != 1
        self._is_plain = not (self._penalizes or self._repeats or options.logit_bias or guide)

    def draw(self, logits: Array) -> Drawn:
        """Choose the next token.

        Args:
            logits: float [vocabulary]; they aren't changed.

        Raises:
            DeviceError: `runtime-failed`, when the largest logit is no number or infinite.
            UsageError: `input-invalid`, when a bias is for a token beyond the vocabulary, or the guide fails.
        """
        scores = logits if self._is_plain else self._changed(logits)
        likeliest = int(scores.argmax())
        top = scores[likeliest]
        if not np.isfinite(top):
            raise DeviceError("runtime-failed", f"the model's largest logit is {top}", "try another prompt")
        token = likeliest
        if self._options.temperature >= _TEMPERATURE_MIN:
            token = self._drawn((scores.astype(np.float32) - np.float32(top)) / np.float32(self._options.temperature))
        self._repeated.add(token)
        self._written[token] += 1
        count = self._options.logprobs
        logprob = None if count is None else written_token(logits, token, count, self._texts)
        return Drawn(token, logprob, self._guide is not None and self._guide.advance(token))

    def _changed(self, logits: Array) -> NDArray[np.float32]:
        """Apply bias, penalties and constraint to a copy of the logits."""
        scores = np.array(logits, np.float32)
        if self._biased.size:
            _check_vocabulary(self._biased, scores.size)
            scores[self._biased] += self._biases
        if self._repeats:
            ids = _ids(self._repeated)
            given, penalty = scores[ids], np.float32(self._options.repetition_penalty)
            scores[ids] = np.where(given < 0, given * penalty, given / penalty)
        if self._penalizes and self._written:
            counts = np.fromiter(self._written.values(), np.float32, len(self._written))
            frequency, presence = self._options.frequency_penalty, self._options.presence_penalty
            scores[_ids(self._written)] -= counts * np.float32(frequency) + np.float32(presence)
        if self._guide is not None:
            scores[~self._guide.allowed(scores.size)] = _FORBIDDEN
        return scores

    def _drawn(self, scaled: NDArray[np.float32]) -> int:
        """Draw a token; the largest of `scaled` is 0."""
        ids, weights = candidates(scaled, self._options)
        reached = np.cumsum(weights, dtype=np.float64)
        drawn = int((reached / reached[-1]).searchsorted(self._generator.random(), side="right"))
        return drawn if ids is None else int(ids[drawn])


def candidates(
    scaled: NDArray[np.float32], options: Continuation
) -> tuple[NDArray[np.intp] | None, NDArray[np.float32]]:
    """Leave the tokens to draw from.

    Args:
        scaled: logits over the temperature, less their largest, float32 [vocabulary].
        options: `top_k`, `top_p` and `min_p`.

    Returns:
        The ids of the tokens in ascending order, None for all of them; and their probabilities up to a factor.
    """
    ids: NDArray[np.intp] | None = None
    if 0 < options.top_k < scaled.size:
        place = scaled.size - options.top_k
        ids = np.flatnonzero(scaled >= np.partition(scaled, place)[place])
    weights: NDArray[np.float32] = np.exp(scaled if ids is None else scaled[ids])
    if options.top_p < 1:
        ids, weights = _kept(ids, weights, _nucleus(weights, options.top_p))
    if options.min_p > 0:
        ids, weights = _kept(ids, weights, np.flatnonzero(weights >= np.float32(options.min_p) * weights.max()))
    return ids, weights


def _nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.intp]:
    """Find the likeliest weights that reach `top_p` of their sum together, in ascending order of place."""
    total = float(weights.sum(dtype=np.float64))
    # Weights below this sum up to less than 1 - top_p, so that none of them is needed: few are left to sort.
    negligible = min((1 - top_p) * total / weights.size, float(weights.max()))
    places = np.flatnonzero(weights >= np.float32(negligible))
    places = places[np.argsort(-weights[places], kind="stable")]
    reached = np.cumsum(weights[places], dtype=np.float64)[:-1] / total
    return np.sort(places[: 1 + int(reached.searchsorted(top_p))])


def _kept(
    ids: NDArray[np.intp] | None, weights: NDArray[np.float32], places: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    return (places if ids is None else ids[places]), weights[places]


def _ids(tokens: Counter[int] | set[int] | dict[int, float]) -> NDArray[np.intp]:
    return np.fromiter(tokens, np.intp, len(tokens))


def _check_vocabulary(ids: NDArray[np.intp], size: int) -> None:
    if (most := int(ids.max())) >= size:
        message = f"logit_bias has the token {most}, and the model has {size} tokens"
        raise UsageError("input-invalid", message, f"send ids below {size}")
