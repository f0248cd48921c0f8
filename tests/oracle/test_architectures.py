"""Every architecture of the table: what ships answers as transformers' pipeline does; all others are refused.

The table is docs/architectures.md. A third of its rows by day, all by night.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from edgeml import inference
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import EdgemlError
from oracle import architectures
from oracle.architectures import ROWS, Row
from support import sounds

#: The distance of two scores of one label, both computed in fp32.
SCORE_MAX = 1e-3
TEXTS = ("No fault was found.", "Water boils at a lower temperature there, oddly.")
SHADES = (40, 200)
TONES_S = (0.7, 1.3)
DAILY_EVERY = 3


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.id, marks=[] if number % DAILY_EVERY == 0 else pytest.mark.nightly)
        for number, row in enumerate(ROWS)
    ],
)
def test_architecture_answers_as_its_library_or_is_refused(row: Row, tmp_path: Path):
    """Asked alone and in a list; a refusal is one line with the reason that the table has."""
    architectures.build(row.architecture, row.task, tmp_path / "model")
    request = ExportRequest(
        model=str(tmp_path / "model"),
        name="it",
        targets=("x86-vnni",),
        formats=("onnx",),
        quantize="none",
        output=tmp_path / "out",
    )
    if row.refused:
        with pytest.raises(EdgemlError, match=re.escape(row.refused)) as caught:
            export(request)
        assert "\n" not in caught.value.message
        assert not (tmp_path / "out").exists()
        return
    (exported,) = export(request)
    asked = requests(row.task)
    expected = answers(row.task, tmp_path / "model")
    for found in ([inference.run(exported.path, one)[0] for one in asked], inference.run(exported.path, asked)):
        for one, other in zip(found, expected, strict=True):
            if row.task == "text-generation":
                assert one["text"].strip() == other.strip()
            else:
                assert scores(one["labels"]) == pytest.approx(scores(other), abs=SCORE_MAX)


def test_table_has_each_row_once():
    """At least 110 rows; a second one would hide behind the first."""
    assert len(ROWS) == len({row.id for row in ROWS}) >= 110


def requests(task: str) -> list[dict[str, Any]]:
    """Two requests unlike each other."""
    match task:
        case "image-classification":
            return [{"image": base64.b64encode(picture(shade)).decode()} for shade in SHADES]
        case "audio-classification":
            rate_hz = sounds.SAMPLING_RATE_HZ
            return [{"samples": sounds.tone(it).tolist(), "sampling_rate": rate_hz} for it in TONES_S]
        case "text-generation":
            return [{"prompt": text, "max_new_tokens": 5} for text in TEXTS]
        case _:
            return [{"text": text} for text in TEXTS]


def answers(task: str, folder: Path) -> list[Any]:
    """What transformers' pipeline answers to the same raw items."""
    pipeline = transformers.pipeline(task, model=str(folder), device="cpu")
    match task:
        case "image-classification":
            return [pipeline(Image.open(io.BytesIO(picture(shade))), top_k=3) for shade in SHADES]
        case "audio-classification":
            rate_hz = sounds.SAMPLING_RATE_HZ
            return [pipeline({"raw": sounds.tone(it), "sampling_rate": rate_hz}, top_k=3) for it in TONES_S]
        case "text-generation":
            settings = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
            return [pipeline(text, **settings)[0]["generated_text"] for text in TEXTS]
        case _:
            return [pipeline(text, top_k=None) for text in TEXTS]


def scores(labels: list[dict[str, Any]]) -> dict[str, float]:
    """The score of each label."""
    return {it["label"]: it["score"] for it in labels}


def picture(shade: int) -> bytes:
    """A gradient."""
    held = io.BytesIO()
    pixels = np.linspace(0, shade, 48 * 40 * 3).reshape(48, 40, 3).astype(np.uint8)
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()
