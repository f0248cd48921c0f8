"""A short real training of the encoder: a few contrastive steps that change every weight slightly.

Run as `python -m edgeml.demo.retrain FROM TO --json`, outside the demonstration's event loop.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModel, AutoTokenizer

#: Training steps: enough to change every weight, at a second each.
STEPS: Final = 4
#: Of AdamW. Source: the usual rate for fine-tuning encoders of this size.
LEARNING_RATE: Final = 2e-5
#: Divisor of the cosines before the softmax. Source: the sentence-transformers training recipe's scale of 20.
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


def train(model: Path, into: Path) -> None:
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


def _embed(encoder: torch.nn.Module, tokenizer: AutoTokenizer, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    tokens, mask = encoder(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
