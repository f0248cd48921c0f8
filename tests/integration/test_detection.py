"""A detector quantized and judged on photographs: what fp32 finds in them is what int8 has to find."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from edgeml import inference
from edgeml.check import mean_average_precision
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from integration.test_pipelines import exported, photographs
from support import breadth_models as models

#: Of a model with random weights about half of the boxes are surer.
THRESHOLD = 0.6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Photographs with the boxes that a tiny YOLOS finds in fp32, and its folder."""
    folder = tmp_path_factory.mktemp("pictures")
    model = models.pretrained(folder / "model", "yolos", "object-detection")
    bundle = exported(folder, model)
    lines = []
    for name, data in photographs().items():
        (folder / name).write_bytes(data)
        (found,) = inference.run(bundle, {"image": base64.b64encode(data).decode(), "threshold": THRESHOLD})
        boxes = [{"label": it["label"], "box": list(it["box"].values())} for it in found["boxes"]]
        lines.append(json.dumps({"image": name, "boxes": boxes}))
    assert any('"box"' in line for line in lines)
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl", model


def test_a_detector_is_quantized_and_judged_by_its_precision(pictures: tuple[Path, str], tmp_path: Path):
    """int8 with the original's parity on photographs; fp32, which drew the boxes, finds all of them."""
    rows, model = pictures
    request = ExportRequest(
        model=model,
        targets=("x86-vnni",),
        formats=("onnx",),
        output=tmp_path / "out",
        evaluate=rows,
        calibrate=rows,
        max_drop=1.0,
    )
    (bundle,) = export(request)
    card = bundle.manifest.card
    assert card.recipe != "none"
    assert card.parity.rows == 2 * len(photographs())
    assert card.parity.cosine > 0.98
    assert card.accuracy is not None
    assert (card.accuracy.metric, card.accuracy.fp32) == (mean_average_precision.METRIC, pytest.approx(1.0, abs=1e-3))
    assert 0 < card.accuracy.int8 <= 1
    assert card.accuracy.ci95[0] <= card.accuracy.drop <= card.accuracy.ci95[1]
    assert {it.label for it in card.accuracy.classes} <= set(models.LABELS.values())
