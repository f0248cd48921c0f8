"""Text generation with a language model: one run for the prompt, then one for each further token.

The keys and values of earlier tokens (the KV cache) are outputs of each run and inputs of the next. So a run computes
new tokens only. One prompt is continued at a time, and the caller ends an answer by taking no further delta. The
likelihood of a whole text takes one run.
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
from edgeml_runtime.generate.constraint import Constraints
from edgeml_runtime.generate.detokenizer import Detokenizer
from edgeml_runtime.generate.logprobs import TokenTexts
from edgeml_runtime.generate.sampling import Drawn, Sampler
from edgeml_runtime.tasks import (
    Chat,
    Finish,
    Infer,
    LikelihoodAnswer,
    Prompt,
    ScoredText,
    TokenDelta,
)
from edgeml_runtime.tensors import Array

_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_POSITIONS: Final = "position_ids"


class Writer:
    """A language model's tokenizer, and the meaning of its inputs and outputs.

    Raises:
        RejectedError: `bundle-format`, when the model has an unknown input, or the tokenizer is malformed.
        DeviceError: `store-failed`, when the tokenizer can't be read.
    """

    def __init__(self, folder: Path, prompt: PromptInput, manifest: Manifest) -> None:
        if not isinstance(manifest.postprocess, Generation):
            raise RejectedError("bundle-format", "the model takes prompts, but its postprocessing generates no text")
        self._spec = manifest.postprocess
        self.output: Final = self._spec.output
        known = {_IDS, _MASK, _POSITIONS, *self._spec.past}
        if unknown := [spec.name for spec in manifest.inputs if spec.name not in known]:
            raise RejectedError("bundle-format", f"a prompt has no tensors for the model's inputs {', '.join(unknown)}")
        self._prompt = prompt
        self._inputs: dict[str, TensorSpec] = {spec.name: spec for spec in manifest.inputs}
        self._tokenizer = opened(folder / prompt.tokenizer)
        self._texts = TokenTexts(self._tokenizer)
        self._constraints = Constraints(self._tokenizer, self._spec.stop_ids)

    def prompt_tensors(self, request: Prompt | Chat) -> dict[str, Array]:
        """Make the inputs of the first run: the whole prompt and an empty cache.

        Returns:
            Arrays by tensor name: integers [1, tokens], and the cache, float [1, heads, 0, size], by layer.

        Raises:
            UsageError: `input-invalid`, when the prompt is empty or not Unicode, or the chat template refuses the
                messages; `prompt-too-long`.
        """
        if isinstance(request, Chat):
            # The template writes the special tokens, the first one too.
            ids = self._ids(self._render(request), special=False)
        else:
            ids = self._ids(request.prompt)
        tokens_max = self._prompt.max_length - 1
        if not ids:
            raise UsageError("input-invalid", "the prompt has 0 tokens", f"send 1 to {tokens_max} tokens")
        if len(ids) > tokens_max:
            message = f"the prompt has {len(ids)} tokens, and the model reads {tokens_max} and writes one"
            raise UsageError("prompt-too-long", message, "send a shorter prompt")
        return self._begin(ids)

    def text_tensors(self, item: ScoredText) -> dict[str, Array]:
        """Make the inputs for a whole text, cut at the model's maximum of tokens.

        Raises:
            UsageError: `input-invalid`, when it has fewer than two tokens or is not Unicode.
        """
        ids = self._ids(item.text)[: self._prompt.max_length]
        if len(ids) < 2:
            raise UsageError("input-invalid", f"the text has {len(ids)} tokens", "send texts of two tokens or more")
        return self._begin(ids)

    def generate(self, request: Prompt | Chat, tensors: dict[str, Array], infer: Infer) -> Iterator[TokenDelta]:
        """Generate the answer, one run for each delta that the caller takes.

        Args:
            request: the bounds of the answer, and how tokens are drawn.
            tensors: from `prompt_tensors`.
            infer: runs the model.
        """
        prompt: list[int] = tensors[_IDS][0].tolist()
        room = min(request.max_new_tokens, self._prompt.max_length - len(prompt))
        detokenizer = Detokenizer(self._tokenizer.decode, prompt, request.stop)
        guide = self._constraints.guide(request.constraint) if request.constraint else None
        sampler = Sampler(request, prompt, self._texts, guide)
        for count, drawn in enumerate(self._tokens(tensors, sampler, infer), start=1):
            ends = drawn.token in self._spec.stop_ids
            text = "" if ends else detokenizer.add(drawn.token)
            finish: Finish | None = "length" if count == room else None
            if ends or detokenizer.stopped or drawn.is_last:
                finish = "stop"
            if finish:
                text += detokenizer.rest()
            logprob = None if ends else drawn.logprob
            yield TokenDelta(text=text, prompt_tokens=len(prompt), tokens=count, finish=finish, logprob=logprob)
            if finish:
                return

    def _render(self, request: Chat) -> str:
        if self._prompt.chat is None:
            raise UsageError("input-invalid", "the model has no chat template", "send a prompt instead of messages")
        return chat.render(request.messages, self._prompt.chat)

    def _ids(self, text: str, *, special: bool = True) -> list[int]:
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except TypeError as error:
            raise UsageError("input-invalid", f"the prompt can't be read: {error}", "send valid Unicode") from error

    def _begin(self, ids: Sequence[int]) -> dict[str, Array]:
        """Make the inputs of a run with an empty cache."""
        past = {
            name: np.zeros([1, *(max(0, length) for length in spec.shape[1:])], dtype=spec.dtype)
            for name, spec in self._inputs.items()
            if name in self._spec.past
        }
        return self._tensors(ids, len(ids), past)

    def _tokens(self, tensors: dict[str, Array], sampler: Sampler, infer: Infer) -> Iterator[Drawn]:
        """Generate tokens without end, each from a run of its own."""
        total = tensors[_IDS].shape[1]
        while True:
            outputs = infer(tensors)
            drawn = sampler.draw(outputs[self._spec.output][0, -1])
            yield drawn
            total += 1
            past = {name: outputs[present] for name, present in zip(self._spec.past, self._spec.present, strict=True)}
            tensors = self._tensors([drawn.token], total, past)

    def _tensors(self, ids: Sequence[int], total: int, past: Mapping[str, Array]) -> dict[str, Array]:
        """Make the inputs for `ids`, the last of `total` tokens."""
        values = {_IDS: list(ids), _MASK: [1] * total, _POSITIONS: list(range(total - len(ids), total))}
        counted = {
            name: np.array([row], dtype=self._inputs[name].dtype)
            for name, row in values.items()
            if name in self._inputs
        }
        return {**counted, **past}


def likelihood(tensors: Mapping[str, Array], infer: Infer, *, output: str) -> LikelihoodAnswer:
    """Compute the likelihood of a text: the probability of each token after those before it.

    Args:
        tensors: from `Writer.text_tensors`.
        infer: runs the model.
        output: name of the logits, float [1, tokens, vocabulary].
    """
    following = tensors[_IDS][0, 1:]
    scores = infer(tensors)[output][0]
    # One position at a time: a board has no memory for a large vocabulary in float64 at all positions.
    total = sum(_log_probability(logits, int(token)) for logits, token in zip(scores, following, strict=False))
    return {"log_likelihood": total, "tokens": len(following)}


def _log_probability(logits: Array, token: int) -> float:
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
