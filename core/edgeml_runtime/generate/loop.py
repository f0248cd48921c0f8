"""A language model asked token by token: a prompt becomes tensors, and the model's answer to them the next ones.

Attention's keys and values of earlier tokens go from each run into the next. One prompt at a time; whoever takes the
pieces of an answer ends it by taking no more. A passage that is there already takes one run, which says how likely each
of its tokens was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import Manifest, TensorSpec
from edgeml_core.processing import Generation, PromptInput
from edgeml_runtime.encode.text import opened
from edgeml_runtime.generate import chat
from edgeml_runtime.generate.detokenizer import Spelling
from edgeml_runtime.postprocess.classification import softmax
from edgeml_runtime.tasks import (
    Chat,
    Continuation,
    Finish,
    Infer,
    LikelihoodAnswer,
    Prompt,
    ScoredText,
    TokenDelta,
)
from edgeml_runtime.tensors import Array

#: Below it no token but the likeliest is ever drawn, and float32 overflows.
_COLDEST: Final = 1e-6
_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_POSITIONS: Final = "position_ids"


class Writer:
    """A tokenizer and what a model's inputs and outputs mean.

    Raises:
        RejectedError: `bundle-format`, when the model asks for what is not known, or the tokenizer is malformed.
        DeviceError: `store-failed`, when the tokenizer can't be read.
    """

    def __init__(self, folder: Path, prompt: PromptInput, manifest: Manifest) -> None:
        if not isinstance(manifest.postprocess, Generation):
            raise RejectedError("bundle-format", "a prompt is asked for, but no text is generated")
        self._spec = manifest.postprocess
        self.output: Final = self._spec.output
        known = {_IDS, _MASK, _POSITIONS, *self._spec.past}
        if unknown := [spec.name for spec in manifest.inputs if spec.name not in known]:
            raise RejectedError("bundle-format", f"no prompt gives a model's inputs {', '.join(unknown)}")
        self._prompt = prompt
        self._inputs: dict[str, TensorSpec] = {spec.name: spec for spec in manifest.inputs}
        self._tokenizer = opened(folder / prompt.tokenizer)

    def first(self, asked: Prompt | Chat) -> dict[str, Array]:
        """The tensors of the first run: the whole prompt, and nothing before it.

        Raises:
            UsageError: `input-invalid`, when the prompt is empty or not Unicode, or messages can't be made into one;
                `prompt-too-long`.
        """
        if isinstance(asked, Chat):
            # The template writes special tokens itself, the first one too.
            ids = self._ids(self._conversation(asked), special=False)
        else:
            ids = self._ids(asked.prompt)
        most = self._prompt.max_length - 1
        if not ids:
            raise UsageError("input-invalid", "the prompt has 0 tokens", f"send 1 to {most} tokens")
        if len(ids) > most:
            message = f"the prompt has {len(ids)} tokens, and the model reads {most} and writes one"
            raise UsageError("prompt-too-long", message, "send a shorter prompt")
        return self._begin(ids)

    def whole(self, passage: ScoredText) -> dict[str, Array]:
        """The tensors of a passage, cut at the model's most tokens.

        Raises:
            UsageError: `input-invalid`, when it has no two tokens or is not Unicode.
        """
        ids = self._ids(passage.text)[: self._prompt.max_length]
        if len(ids) < 2:
            raise UsageError("input-invalid", f"the text has {len(ids)} tokens", "take texts of two tokens or more")
        return self._begin(ids)

    def pieces(self, asked: Prompt | Chat, tensors: dict[str, Array], infer: Infer) -> Iterator[TokenDelta]:
        """The answer token by token, each made when it is taken.

        Args:
            tensors: what `first` made of it.
        """
        given: list[int] = tensors[_IDS][0].tolist()
        room = min(asked.max_new_tokens, self._prompt.max_length - len(given))
        spelling = Spelling(self._tokenizer.decode, given, asked.stop)
        for count, token in enumerate(self._tokens(tensors, asked, infer), start=1):
            ends = token in self._spec.stop_ids
            text = "" if ends else spelling.add(token)
            finish: Finish | None = "length" if count == room else None
            if ends or spelling.stopped:
                finish = "stop"
            if finish:
                text += spelling.rest()
            yield TokenDelta(text=text, prompt_tokens=len(given), tokens=count, finish=finish)
            if finish:
                return

    def _conversation(self, asked: Chat) -> str:
        if self._prompt.chat is None:
            raise UsageError("input-invalid", "the model has no chat template", "send a prompt instead of messages")
        return chat.rendered(asked.messages, self._prompt.chat)

    def _ids(self, text: str, *, special: bool = True) -> list[int]:
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except TypeError as error:
            raise UsageError("input-invalid", f"the prompt can't be read: {error}", "send valid Unicode") from error

    def _begin(self, ids: Sequence[int]) -> dict[str, Array]:
        """The tensors of a run with nothing before it."""
        past = {
            name: np.zeros([1, *(max(0, length) for length in spec.shape[1:])], dtype=spec.dtype)
            for name, spec in self._inputs.items()
            if name in self._spec.past
        }
        return self._tensors(ids, len(ids), past)

    def _tokens(self, tensors: dict[str, Array], asked: Continuation, infer: Infer) -> Iterator[int]:
        """Tokens without end, each from a run of its own."""
        drawn = np.random.default_rng(asked.seed)
        total = tensors[_IDS].shape[1]
        while True:
            outputs = infer(tensors)
            token = _next(outputs[self._spec.output][0, -1], asked, drawn)
            yield token
            total += 1
            past = {name: outputs[made] for name, made in zip(self._spec.past, self._spec.present, strict=True)}
            tensors = self._tensors([token], total, past)

    def _tensors(self, ids: Sequence[int], total: int, past: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs for `ids`, the last of `total` tokens."""
        whole = {_IDS: list(ids), _MASK: [1] * total, _POSITIONS: list(range(total - len(ids), total))}
        counted = {
            name: np.array([values], dtype=self._inputs[name].dtype)
            for name, values in whole.items()
            if name in self._inputs
        }
        return {**counted, **past}


def likelihood(tensors: Mapping[str, Array], infer: Infer, *, output: str) -> LikelihoodAnswer:
    """How likely a passage is: the chance of each token after the ones before it."""
    wanted = tensors[_IDS][0, 1:]
    scored = infer(tensors)[output][0]
    # One position at a time: a large vocabulary in float64 for all of them would not fit a board.
    total = sum(_log_chance(logits, int(token)) for logits, token in zip(scored, wanted, strict=False))
    return {"log_likelihood": total, "tokens": len(wanted)}


def _log_chance(logits: Array, token: int) -> float:
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _next(logits: Array, asked: Continuation, drawn: np.random.Generator) -> int:
    if asked.temperature < _COLDEST:
        return int(logits.argmax())
    chances = softmax(logits / np.float32(asked.temperature)).astype(np.float64)
    if asked.top_p < 1:
        order = np.argsort(-chances, kind="stable")
        likelier = np.cumsum(chances[order])[:-1]
        chances[order[1:][likelier >= asked.top_p]] = 0
    return int(drawn.choice(len(chances), p=chances / chances.sum()))
