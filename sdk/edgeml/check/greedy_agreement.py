"""Greedy agreement: the tokens that a model of texts writes, compared with those that fp32 writes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from edgeml.check.parity import DECISIONS_MIN
from edgeml.check.predictions import Advance
from edgeml_core.card import GreedyAgreement
from edgeml_core.errors import GateFailed
from edgeml_core.manifest import Manifest
from edgeml_core.processing import INPUT_IDS, Decoded, PromptInput
from edgeml_runtime.generate import greedy
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Item, ScoredText
from edgeml_runtime.tensors import Array

#: Prompts: the first rows, or else the checks' own.
PROMPTS_MAX: Final = 200
#: Tokens of a prompt that is a text's beginning; the text's first half, if that is shorter.
PROMPT_TOKENS_MAX: Final = 64
#: Tokens that are written behind each prompt.
TOKENS: Final = 16

#: The inputs of a first run, and the tokens that fp32 writes behind it.
Written = tuple[Mapping[str, Array], Sequence[int]]


def texts(fp32: Model, items: Sequence[Item]) -> list[Written]:
    """Let fp32 write behind each prompt, or of each text.

    Args:
        fp32: a model that writes token by token.
        items: of a language model prompts, or texts whose beginnings are the prompts.
    """
    found: list[Written] = []
    for item in items[:PROMPTS_MAX]:
        tensors: Mapping[str, Array] = fp32.prepare([item]).tensors
        if isinstance(item, ScoredText):
            length = tensors[INPUT_IDS].shape[1]
            tensors = {INPUT_IDS: tensors[INPUT_IDS][:, : max(1, min(length // 2, PROMPT_TOKENS_MAX))]}
        text = _begin(fp32, tensors)
        found.append((tensors, greedy.write(text.read, text.ids, _room(fp32, text.ids), text.stop_ids)))
    return found


def measure(model: Model, written: Sequence[Written], advance: Advance) -> GreedyAgreement:
    """Compare a model's choices with the texts of fp32, each behind fp32's own tokens.

    Args:
        model: of the same signature.
        written: from `texts`.
        advance: receives the number of prompts done, and of all.
    """
    agreed, places = 0, []
    for done, (tensors, tokens) in enumerate(written, start=1):
        text = _begin(model, tensors)
        chosen = greedy.follow(text.read, text.ids, tokens)
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
    match model.manifest:
        case Manifest(preprocess=PromptInput(max_length=most)) | Manifest(postprocess=Decoded(max_tokens=most)):
            return min(TOKENS, most - len(ids))
        case _:
            return TOKENS


def _begin(model: Model, tensors: Mapping[str, Array]) -> greedy.Beginning:
    begun = greedy.begin(model.session, model.manifest, tensors)
    if begun is None:
        raise TypeError(f"{model.manifest.name} writes no text")
    return begun
