"""Greedy text: the likeliest token each time."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from edgeml_runtime.generate.cache import Cache


def write(
    cache: Cache, ids: Sequence[int], count: int, stop_ids: Container[int] = (), *, lead: float = 0.0
) -> list[int]:
    """Write the likeliest tokens behind a prompt.

    Args:
        cache: empty; it reads them all.
        ids: the prompt's tokens.
        count: tokens to write at most.
        stop_ids: tokens that end a text. The one that ends this text is returned, too.
        lead: the least distance of the likeliest token's logit from the next one's; the text ends before a nearer one.
    """
    written: list[int] = []
    unread = ids
    while len(written) < count:
        logits = cache.read(unread)
        second, first = np.partition(logits, -2)[-2:]
        if first - second < lead:
            break
        written.append(int(logits.argmax()))
        unread = written[-1:]
        if written[-1] in stop_ids:
            break
    return written


def follow(cache: Cache, ids: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Choose the likeliest token at each place of a given text, behind the given tokens before it.

    Up to the first other choice these are the tokens of `write`.

    Args:
        cache: empty; it reads them all.
        ids: the prompt's tokens.
        tokens: the text behind the prompt.
    """
    chosen: list[int] = []
    unread = ids
    for token in tokens:
        chosen.append(int(cache.read(unread).argmax()))
        unread = [token]
    return chosen
