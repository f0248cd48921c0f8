"""Masked language models: the mask of transformers' own tokenizer, and the logits at its place alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from edgeml_core.errors import UsageError
from edgeml_core.processing import MaskFill


class AtMask(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A masked language model that answers for the place of the mask alone.

    The logits of all tokens would be a large output: each has one for each word of the vocabulary.

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
        logits = self.inner(**inputs).logits
        at = (inputs["input_ids"] == self.mask_id).int().argmax(dim=1)
        return {"logits": logits[torch.arange(logits.shape[0]), at]}


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
        raise UsageError("model-unreadable", f"transformers can't load {folder}'s tokenizer: {error}", hint) from error
    if tokenizer.mask_token is None:
        hint = "save the tokenizer with its mask_token, or export vectors by --task feature-extraction"
        raise UsageError("model-unsupported", "the tokenizer has no mask token to fill", hint)
    return tokenizer
