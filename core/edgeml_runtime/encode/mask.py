"""The mask of a text: its place among the tokens, and the text with another token in its place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tokenizers import Tokenizer

from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.processing import MaskFill
from edgeml_runtime.postprocess.clean_up import cleaned
from edgeml_runtime.tasks import FILLS_DEFAULT, Masked, Text, Tokens


def masked_tokens(tokenizer: Tokenizer, spec: MaskFill, text: Text, ids: Sequence[int], tokens: Tokens) -> Masked:
    """Find the mask among a text's tokens.

    Args:
        tokenizer: decodes the text.
        spec: names the mask.
        text: gives the number of tokens requested.
        ids: of the tokens.
        tokens: the text's.

    Raises:
        UsageError: `input-invalid`, when there is no mask within the model's length, or several.
        RejectedError: `bundle-format`, when the tokenizer has no such token.
    """
    mask = tokenizer.token_to_id(spec.mask)
    if mask is None:
        raise RejectedError("bundle-format", f"the tokenizer has no token {spec.mask!r} for the mask")
    places = [at for at, token in enumerate(ids) if token == mask]
    if len(places) != 1:
        cut = f" in its first {len(ids)} tokens, which the model takes" if tokens.unread else ""
        message = f"the text has {len(places)} masks{cut}; 1 is needed"
        raise UsageError("input-invalid", message, f"write {spec.mask} in place of one word")
    (at,) = places
    return Masked(
        texts=tokens.texts,
        spans=tokens.spans,
        special=tokens.special,
        unread=tokens.unread,
        top_k=FILLS_DEFAULT if text.top_k is None else text.top_k,
        decode=partial(_decoded, tokenizer, (tuple(ids[:at]), tuple(ids[at + 1 :])), clean_up=spec.clean_up),
    )


def _decoded(
    tokenizer: Tokenizer, around: tuple[tuple[int, ...], tuple[int, ...]], token: int, *, clean_up: bool
) -> tuple[str, str]:
    before, after = around
    own = tokenizer.decode([token], skip_special_tokens=False)
    whole = tokenizer.decode([*before, token, *after], skip_special_tokens=True)
    return (cleaned(own), cleaned(whole)) if clean_up else (own, whole)
