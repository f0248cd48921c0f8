"""Greedy text: the likeliest token each time."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from edgeml_core.manifest import Manifest
from edgeml_core.processing import DECODER_IDS, INPUT_IDS, Decoded, Generation
from edgeml_runtime.engines import Session
from edgeml_runtime.generate.cache import Cache, Decoder
from edgeml_runtime.generate.encoder_decoder import Reading, encoder_input
from edgeml_runtime.tensors import Array

#: Reads further tokens; returns the logits after the last one, float [vocabulary].
Read: TypeAlias = Callable[[Sequence[int]], Array]


class Beginning(NamedTuple):
    """The tokens that begin a text, the way to read them and those behind them, and those that end it."""

    ids: list[int]
    read: Read
    stop_ids: tuple[int, ...]


def begin(session: Session, manifest: Manifest, inputs: Mapping[str, Array]) -> Beginning | None:
    """Begin the text of a model that writes token by token; None for another one.

    Args:
        session: the loaded model.
        manifest: the bundle's.
        inputs: of a first run, by tensor name.
    """
    match manifest.postprocess:
        case Generation() as spec:
            cache = Cache(Decoder(manifest.inputs, spec), session)
            return Beginning(inputs[INPUT_IDS][0].tolist(), cache.read, spec.stop_ids)
        case Decoded() as decoded:
            reading = Reading(manifest.inputs, decoded, inputs[encoder_input(manifest.inputs, decoded).name])
            read = partial(reading.read, session=session)
            return Beginning(inputs[DECODER_IDS][0].tolist(), read, decoded.stop_ids)
        case _:
            return None


def write(read: Read, ids: Sequence[int], count: int, stop_ids: Container[int] = (), *, lead: float = 0.0) -> list[int]:
    """Write the likeliest tokens behind a prompt.

    Args:
        read: has read nothing yet.
        ids: the prompt's tokens.
        count: tokens to write at most.
        stop_ids: tokens that end a text. The one that ends this text is returned, too.
        lead: the least distance of the likeliest token's logit from the next one's; the text ends before a nearer one.
    """
    written: list[int] = []
    unread = ids
    while len(written) < count:
        logits = read(unread)
        second, first = np.partition(logits, -2)[-2:]
        if first - second < lead:
            break
        written.append(int(logits.argmax()))
        unread = written[-1:]
        if written[-1] in stop_ids:
            break
    return written


def follow(read: Read, ids: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Choose the likeliest token at each place of a given text, behind the given tokens before it.

    Up to the first other choice these are the tokens of `write`.

    Args:
        read: has read nothing yet.
        ids: the prompt's tokens.
        tokens: the text behind the prompt.
    """
    chosen: list[int] = []
    unread = ids
    for token in tokens:
        chosen.append(int(read(unread).argmax()))
        unread = [token]
    return chosen
