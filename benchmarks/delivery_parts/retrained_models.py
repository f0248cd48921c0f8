"""Retrained models: a text classifier, the same one epoch later, and the same trained again from its encoder.

MiniLM learns which chapter of Python's language reference a sentence is from; the text comes with every Python. All
weights learn. `edgeml export` exports the three, so that the bundles are those that ship.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from export_parts.texts import MINILM

NAME: Final = "chapters"
TARGET: Final = "x86-gateway"
CHAPTERS: Final = ("specialnames", "compound", "types", "formatstrings", "string-methods", "debugger")
SENTENCE_CHARS: Final = range(40, 300)
STEPS_PER_EPOCH: Final = 60
EPOCHS: Final = 3
BATCH: Final = 8
TOKENS: Final = 32
LEARNING_RATE: Final = 3.5e-5
#: Version, the version that training starts from (none: the encoder), number of epochs, seed.
VERSIONS: Final = (("1", "", EPOCHS, 0), ("2", "1", 1, 1), ("3", "", EPOCHS + 1, 2))


def make(folder: Path) -> dict[str, Path]:
    """Make the three bundles in `folder`, unless they are there; return them by version."""
    for version, start, epochs, seed in VERSIONS:
        if not (folder / version).exists():
            _train(folder / start if start else MINILM, folder / version, epochs=epochs, seed=seed)
        if not list(folder.glob(f"{NAME}-{version}-*.edgeml")):
            _export(folder / version, folder, version)
    return {version: next(folder.glob(f"{NAME}-{version}-*.edgeml")) for version, *_ in VERSIONS}


def _train(start: Path, into: Path, *, epochs: int, seed: int) -> None:
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=len(CHAPTERS)).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    rows, draw = _rows(), np.random.default_rng(seed)
    for _ in range(epochs):
        order = draw.permutation(len(rows))[: STEPS_PER_EPOCH * BATCH].reshape(-1, BATCH)
        for rows_of_batch in order:
            texts, labels = zip(*(rows[index] for index in rows_of_batch), strict=True)
            batch = tokenizer(list(texts), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
            loss = model(**batch, labels=torch.tensor(labels)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def _rows() -> list[tuple[str, int]]:
    """Return sentences, each with the number of its chapter."""
    rows = []
    for label, chapter in enumerate(CHAPTERS):
        sentences = (" ".join(it.split()) for it in re.split(r"(?<=[.:])\s+|\n\n+", topics[chapter]))
        rows += [(sentence, label) for sentence in sentences if len(sentence) in SENTENCE_CHARS]
    return rows


def _export(model: Path, folder: Path, version: str) -> None:
    command = [sys.executable, "-m", "edgeml", "export", str(model), "--target", TARGET, "--format", "onnx"]
    subprocess.run([*command, "--name", NAME, "--version", version, "-o", str(folder), "--quiet"], check=True)
