"""Masked language models: the mask of transformers' own tokenizer, and the logits at its place alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from edgeml.exporters.torch_session import ERROR_CHARS
from edgeml_core.errors import UsageError
from edgeml_core.processing import MaskFill


class AtMask(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A masked language model that answers for the place of the mask alone.

    The logits of all tokens would be a large output: each has one for each word of the vocabulary. So the product with
    the vocabulary is computed for the mask's row, where the model has it as its output embeddings.

    Args:
        inner: transformers' model.
        mask_id: the mask's token.
    """

    def __init__(self, inner: torch.nn.Module, mask_id: int) -> None:
        super().__init__()
        self.inner = inner
        self.mask_id = mask_id

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the model; a text without a mask has the logits of its first token.

        Args:
            inputs: `input_ids`, int64 [texts, tokens], and the others of the model.

        Returns:
            `logits`, float32 [texts, vocabulary].
        """
        ids = inputs["input_ids"]
        texts, at = torch.arange(ids.shape[0]), (ids == self.mask_id).int().argmax(dim=1)
        taken: list[torch.Tensor] = []

        def take(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
            taken.append(given[0][texts, at].unsqueeze(1))
            return taken[-1]

        head = self.inner.get_output_embeddings()
        hook = head.register_forward_pre_hook(take) if head is not None else None
        try:
            logits = self.inner(**inputs).logits
        finally:
            if hook is not None:
                hook.remove()
        return {"logits": logits[:, 0] if taken else logits[texts, at]}


def module(folder: Path, pretrained: torch.nn.Module) -> AtMask:
    """Let a model answer for the mask alone.

    Raises:
        UsageError: as for `mask_fill`.
    """
    return AtMask(pretrained, _tokenizer(folder).mask_token_id)


def mask_fill(folder: Path, output: str) -> MaskFill:
    """Describe the postprocessing that fills a mask.

    Args:
        folder: the model's.
        output: name of the output of logits.

    Raises:
        UsageError: `model-unreadable`, when transformers can't load the tokenizer; `model-unsupported`, when the
            tokenizer has no mask.
    """
    tokenizer = _tokenizer(folder)
    return MaskFill(output=output, mask=tokenizer.mask_token, clean_up=bool(tokenizer.clean_up_tokenization_spaces))


def _tokenizer(folder: Path) -> Any:  # noqa: ANN401 -- transformers has no types here
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers let errors of many kinds pass
        hint = "save the tokenizer too: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        raise UsageError("model-unreadable", f"transformers can't load {folder}'s tokenizer: {reason}", hint) from error
    if tokenizer.mask_token is None:
        hint = "save the tokenizer with its mask_token, or export vectors by --task feature-extraction"
        raise UsageError("model-unsupported", "the tokenizer has no mask token to fill", hint)
    return tokenizer
