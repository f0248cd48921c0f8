"""Greedy agreement: the tokens that a language model writes, compared with those that fp32 writes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from edgeml.check.parity import DECISIONS_MIN
from edgeml.check.predictions import Advance
from edgeml_core.card import GreedyAgreement
from edgeml_core.errors import GateFailed
from edgeml_core.processing import INPUT_IDS, Generation, PromptInput
from edgeml_runtime.generate import greedy
from edgeml_runtime.generate.cache import Cache, Decoder
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Item, ScoredText

#: Prompts: the first rows, or else the checks' own.
PROMPTS_MAX: Final = 200
#: Tokens of a prompt that is a text's beginning; the text's first half, if that is shorter.
PROMPT_TOKENS_MAX: Final = 64
#: Tokens that are written behind each prompt.
TOKENS: Final = 16

#: A prompt's tokens, and those that fp32 writes behind it.
Written = tuple[Sequence[int], Sequence[int]]


def texts(fp32: Model, items: Sequence[Item]) -> list[Written]:
    """Let fp32 write behind each prompt.

    Args:
        fp32: a language model.
        items: prompts, or texts whose beginnings are the prompts.
    """
    found: list[Written] = []
    for item in items[:PROMPTS_MAX]:
        ids: list[int] = fp32.prepare([item]).tensors[INPUT_IDS][0].tolist()
        if isinstance(item, ScoredText):
            ids = ids[: max(1, min(len(ids) // 2, PROMPT_TOKENS_MAX))]
        found.append((ids, greedy.write(_cache(fp32), ids, _room(fp32, ids), _spec(fp32).stop_ids)))
    return found


def measure(model: Model, written: Sequence[Written], advance: Advance) -> GreedyAgreement:
    """Compare a model's choices with the texts of fp32, each behind fp32's own tokens.

    Args:
        model: of the same signature.
        written: from `texts`.
        advance: receives the number of prompts done, and of all.
    """
    agreed, places = 0, []
    for done, (ids, tokens) in enumerate(written, start=1):
        chosen = greedy.follow(_cache(model), ids, tokens)
        others = [place for place, pair in enumerate(zip(chosen, tokens, strict=True), start=1) if len(set(pair)) > 1]
        agreed += len(tokens) - len(others)
        places += others[:1]
        advance(done, len(written))
    return GreedyAgreement(
        prompts=len(written),
        tokens=sum(len(tokens) for _, tokens in written),
        agreed=agreed,
        whole=len(written) - len(places),
        first_difference=statistics.median(places) if places else None,
    )


def check(agreement: GreedyAgreement) -> None:
    """Check that the model writes what fp32 writes: each token is a decision.

    Raises:
        GateFailed: `gate-failed`.
    """
    if agreement.fraction < DECISIONS_MIN:
        raise GateFailed(
            "gate-failed",
            f"{agreement.fraction:.1%} of {agreement.tokens} tokens are those that fp32 writes, "
            f"below {DECISIONS_MIN:.0%}",
            "take another recipe or target, or ship fp32 with --quantize none",
        )


def _room(model: Model, ids: Sequence[int]) -> int:
    spec = model.manifest.preprocess
    return min(TOKENS, spec.max_length - len(ids)) if isinstance(spec, PromptInput) else TOKENS


def _spec(model: Model) -> Generation:
    spec = model.manifest.postprocess
    if not isinstance(spec, Generation):
        raise TypeError(f"{model.manifest.name} writes no text")
    return spec


def _cache(model: Model) -> Cache:
    return Cache(Decoder(model.manifest.inputs, _spec(model)), model.session)
