"""Requests to the oracle's program and its replies."""

from __future__ import annotations

from typing import Any

import msgspec

from edgeml_core.calls import Refused
from edgeml_core.golden import TensorData
from edgeml_core.manifest import Task


class RawItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item as its owner has it: texts, a question and its context, a picture's file, a sound, or tensors.

    `samples` are float32, little-endian, in one channel. `threshold` is a detector's, `tokens` bounds a continuation,
    `top_k` is the number of tokens that fill a mask; None takes the library's own.
    """

    text: str | None = None
    text_pair: str | None = None
    question: str | None = None
    image: bytes | None = None
    samples: bytes | None = None
    tensors: dict[str, TensorData] = {}
    sampling_rate_hz: int = 0
    threshold: float | None = None
    tokens: int = 0
    top_k: int | None = None


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """The model's folder or file, its task, and the items to answer, each alone."""

    folder: str
    task: Task
    items: tuple[RawItem, ...]


class LibraryAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The library's answer in the form of edgeml's answers, or the reason why it gave none.

    `inputs` are the tensors that the library made of a picture, float32: a model whose answers hardly depend on its
    input would hide a wrong preparation. `outputs` are those of its model, float32, for answers that say little of
    them: a recognizer of speech finds no words in most sounds.
    """

    answer: dict[str, Any] | None = None
    inputs: dict[str, TensorData] = {}
    outputs: dict[str, TensorData] = {}
    error: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The library with its version, and what it answers of each item; or why it can't load the model."""

    library: str = ""
    answers: tuple[LibraryAnswer, ...] = ()
    refused: Refused | None = None
