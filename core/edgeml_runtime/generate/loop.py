"""Text generation with a language model: one run for the prompt, then one for each further token.

The keys and values of earlier tokens are kept (the KV cache). So a run computes new tokens only, and the next turn of a
conversation too. Conversations that are written at the same time share their runs (`batch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import Manifest
from edgeml_core.processing import Generation, PromptInput
from edgeml_runtime.encode.text import opened
from edgeml_runtime.engines import Session
from edgeml_runtime.generate import chat
from edgeml_runtime.generate.cache import COUNTED, Cache, Decoder
from edgeml_runtime.generate.calling import Calling, CallingAnswer
from edgeml_runtime.generate.constraint import Constraints, Guide
from edgeml_runtime.generate.conversation import Conversation, Rounds, Text
from edgeml_runtime.generate.detokenizer import Detokenizer
from edgeml_runtime.generate.logprobs import TokenTexts
from edgeml_runtime.generate.sampling import Sampler
from edgeml_runtime.tasks import Chat, LikelihoodAnswer, Prompt, ScoredText
from edgeml_runtime.tensors import Array


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
        known = {*COUNTED, *self._spec.past}
        if unknown := [spec.name for spec in manifest.inputs if spec.name not in known]:
            raise RejectedError("bundle-format", f"a prompt has no tensors for the model's inputs {', '.join(unknown)}")
        self._prompt = prompt
        self._decoder = Decoder(manifest.inputs, self._spec)
        self._rounds = Rounds(self._decoder)
        self._tokenizer = opened(folder / prompt.tokenizer)
        self._texts = TokenTexts(self._tokenizer)
        self._constraints = Constraints(self._tokenizer, self._spec.stop_ids)
        self._calling = Calling(prompt.chat, self._tokenizer)

    def prompt_ids(self, request: Prompt | Chat) -> list[int]:
        """Encode a prompt.

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
        return ids

    def text_ids(self, item: ScoredText) -> list[int]:
        """Encode a whole text, cut at the model's maximum of tokens.

        Raises:
            UsageError: `input-invalid`, when it has fewer than two tokens or is not Unicode.
        """
        ids = self._ids(item.text)[: self._prompt.max_length]
        if len(ids) < 2:
            raise UsageError("input-invalid", f"the text has {len(ids)} tokens", "send texts of two tokens or more")
        return ids

    def tensors(self, ids: Sequence[int]) -> dict[str, Array]:
        """Make the inputs of one run that reads all tokens and gives the logits after the last one.

        Returns:
            Arrays by tensor name: integers [1, tokens], and the empty cache, float [1, heads, 0, size], by layer.
        """
        return self._decoder.tensors(ids, at=[len(ids) - 1]) | self._decoder.empty(0)

    def likelihood(self, ids: Sequence[int], session: Session) -> LikelihoodAnswer:
        """Compute the likelihood of a text from `text_ids` by the loaded model."""
        return likelihood(ids, Cache(self._decoder, session))

    def begin(self, request: Prompt | Chat, prompt: Sequence[int], session: Session) -> Conversation:
        """Begin the answer to a prompt; it must be closed.

        A prompt that begins as an earlier conversation is read from where it differs.

        Args:
            request: the bounds of the answer, and how tokens are drawn.
            prompt: from `prompt_ids`.
            session: the loaded model.

        Raises:
            UsageError: `input-invalid`, when the form of the answer or its tools are refused.
        """
        answer, guide = self._answer(request, prompt)
        room = min(request.max_new_tokens, self._prompt.max_length - len(prompt))
        text = Text(
            room=room,
            stop_ids=self._spec.stop_ids,
            answer=answer,
            sampler=Sampler(request, prompt, self._texts, guide),
        )
        return self._rounds.begin(session, prompt, text)

    def _answer(
        self, request: Prompt | Chat, prompt: Sequence[int]
    ) -> tuple[Detokenizer | CallingAnswer, Guide | None]:
        wanted = request.tools if isinstance(request, Chat) else None
        if request.constraint:
            guide: Guide | None = self._constraints.guide(request.constraint)
        else:
            guide = self._calling.guide(wanted, self._constraints) if wanted else None
        if wanted is None or wanted.choice == "none":
            return Detokenizer(self._tokenizer.decode, prompt, request.stop), guide
        return self._calling.answer(wanted, prompt, request.stop, at_once=guide is not None), guide

    def _render(self, request: Chat) -> str:
        if self._prompt.chat is None:
            raise UsageError("input-invalid", "the model has no chat template", "send a prompt instead of messages")
        with_tools = self._calling.render(request)
        return chat.render(request.messages, self._prompt.chat) if with_tools is None else with_tools

    def _ids(self, text: str, *, special: bool = True) -> list[int]:
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except TypeError as error:
            raise UsageError("input-invalid", f"the prompt can't be read: {error}", "send valid Unicode") from error


def likelihood(ids: Sequence[int], cache: Cache) -> LikelihoodAnswer:
    """Compute the likelihood of a text: the probability of each token after those before it.

    Args:
        ids: the text's tokens.
        cache: empty; it reads them.
    """
    total = 0.0
    for some, scores in cache.read_all(ids[:-1]):
        following = ids[len(cache.tokens) - len(some) + 1 :]
        # One position at a time: a board has no memory for a large vocabulary in float64 at all positions.
        total += sum(_log_probability(logits, token) for logits, token in zip(scores, following, strict=False))
    return {"log_likelihood": total, "tokens": len(ids) - 1}


def _log_probability(logits: Array, token: int) -> float:
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
