"""What a detector's folder says of pictures and outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeml.exporters.huggingface import detection
from edgeml_core.errors import UsageError

USUAL = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def folder(path: Path, size: Any, **more: object) -> Path:
    """A folder with this image processor."""
    (path / "preprocessor_config.json").write_text(json.dumps(USUAL | {"size": size} | more))
    return path


def test_a_size_of_height_and_width_is_taken(tmp_path: Path):
    """As it is."""
    image = detection.image_input(folder(tmp_path, {"height": 480, "width": 640}))
    assert (image.height, image.width, image.mean) == (480, 640, (0.485, 0.456, 0.406))


@pytest.mark.parametrize("size", [{"shortest_edge": 800, "longest_edge": 1333}, 512, {"max_height": 9, "max_width": 9}])
def test_proportions_that_vary_are_refused_with_the_setting(tmp_path: Path, size: Any):
    """A board's model has fixed shapes."""
    with pytest.raises(UsageError) as caught:
        detection.image_input(folder(tmp_path, size))
    assert caught.value.code == "model-unsupported"
    assert "height and width" in caught.value.hint


@pytest.mark.parametrize("more", [{"pad_size": {"height": 9, "width": 9}}, {"do_resize": False}])
def test_pictures_of_another_kind_are_refused(tmp_path: Path, more: dict[str, object]):
    """Padded ones, and ones of any size."""
    with pytest.raises(UsageError) as caught:
        detection.image_input(folder(tmp_path, {"height": 9, "width": 9}, **more))
    assert caught.value.code == "model-unsupported"


def test_a_detector_with_other_scores_is_refused(tmp_path: Path):
    """RT-DETR's boxes have a score for each label alone, and no "no object"."""
    (tmp_path / "config.json").write_text('{"model_type": "rt_detr"}')
    with pytest.raises(UsageError, match="rt_detr") as caught:
        detection.boxes(tmp_path, "logits", "pred_boxes")
    assert caught.value.code == "model-unsupported"
