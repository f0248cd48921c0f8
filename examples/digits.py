r"""A small vision model, trained here within seconds on scikit-learn's 1,797 handwritten digits, and its data.

    python examples/digits.py data                     writes data/calibrate.jsonl, data/evaluate.jsonl and the pictures
    edgeml export examples/digits.py:digits --task image-classification --target rpi4 \
        --calibrate data/calibrate.jsonl --evaluate data/evaluate.jsonl -o out

What is evaluated on was never trained on; what is calibrated on was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

TRAINING_ROWS: Final = 1200
CALIBRATION_ROWS: Final = 100
EPOCHS: Final = 8
BATCH: Final = 100
BRIGHTEST: Final = 16  # the data set's white


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """All digits: uint8 [1797, 8, 8] and their labels [1797]."""
    pixels, labels = load_digits(return_X_y=True)
    return np.floor(pixels.reshape(-1, 8, 8) * 255 / BRIGHTEST).astype(np.uint8), labels


def digits() -> tuple[torch.nn.Module, tuple[torch.Tensor]]:
    """The trained model, and an example of its input: float32 [1, 1, 8, 8] from 0 to 1."""
    pixels, labels = pictures()
    images, truth = torch.from_numpy(pixels).unsqueeze(1) / 255, torch.from_numpy(labels)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(EPOCHS):
        for batch in torch.randperm(TRAINING_ROWS).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[batch]), truth[batch]).backward()
            optimizer.step()
    return net, (images[:1],)


def write_rows(folder: Path) -> None:
    """Write the rows to calibrate and to evaluate on, as JSON lines that name pictures beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = pictures()
    chosen = {"calibrate": range(CALIBRATION_ROWS), "evaluate": range(TRAINING_ROWS, len(labels))}
    for name, indices in chosen.items():
        rows = []
        for index in indices:
            Image.fromarray(pixels[index]).save(folder / f"{index}.png")
            rows.append(json.dumps({"image": f"{index}.png", "label": int(labels[index])}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows))


if __name__ == "__main__":
    write_rows(Path(sys.argv[1]))
