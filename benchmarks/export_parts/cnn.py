"""ResNet-18's shape in static int8 against fp32. Its weights and images are random, so only its speed counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import transformers

from edgeml_core.manifest import Format
from export_parts import contenders
from export_parts.comparison import PYTORCH, THREADS, Comparison, saved
from export_parts.contenders import OPTIMUM_FP32
from export_parts.race import Contender, race
from harness.figures import Outcome, Run, least

AIMS: Final = {OPTIMUM_FP32: least(2.5), PYTORCH: None}
#: Images that are timed or compared, then images for calibration.
IMAGES: Final = 8
COMPARED_IMAGES: Final = 4


@dataclass(frozen=True, kw_only=True)
class Size:
    """The widths and depths of the stages, the side of an image in pixels, the formats, and the rounds as elsewhere."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    pixels: int
    formats: tuple[Format, ...]
    rounds: int
    limit_s: float


FULL: Final = Size(
    widths=(64, 128, 256, 512), depths=(2, 2, 2, 2), pixels=224, formats=("onnx", "tflite"), rounds=15, limit_s=30
)
QUICK: Final = Size(widths=(16, 32), depths=(1, 1), pixels=64, formats=("tflite",), rounds=1, limit_s=2)


def figures(run: Run) -> Iterator[Outcome]:
    """Yield the times and the ratios."""
    size, folder = run.size(FULL, QUICK), run.folder / "cnn"
    folder.mkdir()
    model = _model(folder / "model", size)
    noise = np.random.default_rng(0).normal(size=(IMAGES, 3, size.pixels, size.pixels)).astype(np.float32)
    timed = saved({"pixel_values": noise[:COMPARED_IMAGES]}, folder / "inputs.npz")
    calibration = [{"pixel_values": noise[row : row + 1]} for row in range(COMPARED_IMAGES, IMAGES)]
    whole, _ = contenders.optimum(model, "image-classification", folder)
    ours = [contenders.quantized(model, it, folder, calibration=calibration) for it in size.formats]
    pytorch = Contender(name=PYTORCH, kind="pytorch", path=model)
    results = race([pytorch, whole, *ours], timed, threads=THREADS, rounds=size.rounds, limit_s=size.limit_s)
    found = Comparison(title="ResNet-18 shape int8", results=results, ours=results[2:], pool=lambda outputs: outputs)
    yield from found.figures(AIMS)


def _model(folder: Path, size: Size) -> Path:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        layer_type="basic",
        embedding_size=size.widths[0],
        hidden_sizes=list(size.widths),
        depths=list(size.depths),
        num_labels=1000,
    )
    transformers.ResNetForImageClassification(config).eval().save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": size.pixels}, crop_pct=1.0).save_pretrained(folder)
    return folder
