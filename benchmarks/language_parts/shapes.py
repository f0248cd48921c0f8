"""Language models with random weights in the shapes of known ones, and a tokenizer of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from harness.figures import Aim

#: Tokens of a prompt and its answer: every shape has room for them.
CONTEXT_TOKENS: Final = 512
#: A token for each byte, then these, then further ones that no text has, up to the shape's number.
SPECIAL: Final = ("<unk>", "<s>", "</s>")
BYTES: Final = 256
#: The one merge of two tokens: llama.cpp loads no tokenizer without any.
MERGED: Final = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A shape, and the aims that it has beyond those of all.

    Attributes:
        title: the name in figures.
        model_type: transformers' name of the architecture.
        sizes: of its configuration.
        tiny: further sizes, which replace these in a quick run.
        decode: aims of edgeml's new tokens a second: against a rival by its name, or by `""` on their own.
    """

    title: str
    model_type: str
    sizes: Mapping[str, object]
    tiny: Mapping[str, object]
    decode: Mapping[str, Aim] = field(default_factory=dict)


#: A quick run's sizes in Llama's names. Blocks of 4 bits need widths that are multiples of 32.
TINY: Final = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 512,
}


def saved(shape: Shape, folder: Path, *, is_quick: bool) -> Path:
    """Save a model with random weights and its tokenizer as transformers does, in fp32."""
    sizes = {**shape.sizes, **(shape.tiny if is_quick else {})}
    ids = {"bos_token_id": BYTES + 1, "eos_token_id": BYTES + 2}
    config = transformers.AutoConfig.for_model(shape.model_type, **sizes, **ids)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().save_pretrained(folder)
    _tokenizer(config.vocab_size).save_pretrained(folder)
    return folder


def prompt(tokens: int) -> np.ndarray:
    """Return ids of random bytes, int64 [1, tokens]."""
    return np.random.default_rng(0).integers(0, BYTES, size=(1, tokens))


def _tokenizer(tokens: int) -> transformers.PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = [*alphabet, *SPECIAL, "".join(MERGED)]
    known += (f"<token {number}>" for number in range(len(known), tokens))
    made = Tokenizer(models.BPE({it: number for number, it in enumerate(known)}, [MERGED]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    unknown, begin, end = SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=CONTEXT_TOKENS, unk_token=unknown, bos_token=begin, eos_token=end
    )
