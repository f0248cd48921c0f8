"""Folders of timm, judged by timm: tests/oracle/test_timm.py runs this in the Python of `support.timm_python`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from edgeml import targets, torchvision_operators

torchvision_operators.declare()
import timm  # noqa: E402 -- after the operators that it needs

from edgeml import inference  # noqa: E402
from edgeml.check import against_oracle  # noqa: E402
from edgeml.check.candidate import opened  # noqa: E402
from edgeml.exporters import fp32, timm_folder  # noqa: E402
from edgeml.exporters.source import Built, Source  # noqa: E402
from edgeml.oracle import hard_items, library  # noqa: E402
from edgeml.pipeline import pack  # noqa: E402
from edgeml.pipeline.export import export  # noqa: E402
from edgeml.pipeline.request import ExportRequest  # noqa: E402
from edgeml_core.card import Oracle  # noqa: E402
from edgeml_core.errors import EdgemlError, GateFailed, UsageError  # noqa: E402
from edgeml_core.manifest import Format, Manifest  # noqa: E402
from oracle import timm_rows  # noqa: E402
from oracle.timm_rows import LABELS, ROWS, Row  # noqa: E402

#: Rows that run by day: each preparation that a bundle knows, a vector, and two families; and each refusal.
BY_DAY = ("test_vit", "mobilenetv3_small_050", "test_resnet")
#: Rows that are converted to TFLite, too, which takes about 15 s of CPU time each.
IN_TFLITE = ("mobilenetv3_small_050", "resnet10t", "vit_tiny_patch16_224")
CENTRED = {"input_size": (3, 48, 48), "crop_pct": 0.86, "mean": (0.48, 0.40, 0.31), "std": (0.27, 0.22, 0.35)}


class Judged:
    """One model's fp32 form with its manifest, and timm's answers to the hard items."""

    def __init__(self, row: Row, place: Path, file_format: Format = "onnx") -> None:
        timm_rows.build(row, place / "model")
        self.source: Source = timm_folder.load(place / "model", None)
        self.items = hard_items.hard(self.source.signature.preprocess, self.source.signature.postprocess)
        (place / "work" / "fp32").mkdir(parents=True)
        self.built: Built = fp32.write(self.source, file_format, place / "work" / "fp32")
        release = pack.Release(name="judged", version="1.0")
        build = pack.Build(model=self.built, source=self.source, profile=targets.load("x86-vnni"), release=release)
        self.manifest = build.manifest()
        self.reply = library.of_environment().ask(place / "model", self.source.task, self.items)

    def check(self, **preparation: Any) -> Oracle:
        """Compare the form, its preparation changed, with timm's answers."""
        changed = msgspec.structs.replace(self.manifest.preprocess, **preparation)
        manifest: Manifest = msgspec.structs.replace(self.manifest, preprocess=changed)
        with opened(self.built, manifest) as model:
            return against_oracle.check(model, self.items, self.reply.answers, self.reply.library)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.id, marks=[] if row.architecture in BY_DAY else [pytest.mark.nightly]) for row in ROWS],
)
def test_architecture_answers_as_timm_or_is_refused(row: Row, tmp_path: Path):
    """From the raw picture, alone and in a list; prepared pictures are compared, too."""
    if row.refused:
        with pytest.raises(UsageError, match=re.escape(row.refused)) as caught:
            Judged(row, tmp_path)
        assert caught.value.code == "model-unsupported"
        return
    judged = Judged(row, tmp_path)
    found = judged.check()
    assert found.library == f"timm {timm.__version__}"
    assert found.items == len(judged.items)


@pytest.mark.nightly
@pytest.mark.parametrize("architecture", IN_TFLITE)
def test_architecture_answers_as_timm_in_tflite(architecture: str, tmp_path: Path):
    """With channels last."""
    judged = Judged(next(row for row in ROWS if row.architecture == architecture), tmp_path, "tflite")
    assert judged.check().items == len(judged.items)


@pytest.fixture(scope="module")
def centred(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """A model whose pictures are resized by the shortest edge, and cropped."""
    return Judged(Row("test_resnet", {}, CENTRED), tmp_path_factory.mktemp("centred"))


MUTATIONS = {
    "no crop": {"resize_shortest_edge": 0, "corner_half_even": msgspec.UNSET},
    "crop of another fraction": {"resize_shortest_edge": 50},
    "corner of the crop rounded down": {"corner_half_even": msgspec.UNSET},
    "squash": {"resize_shortest_edge": 0, "resize_to": (55, 55)},
    "mean": {"mean": (0.485, 0.456, 0.406)},
    "channels in reverse": {"mean": (0.31, 0.40, 0.48), "std": (0.35, 0.22, 0.27)},
    "deviation": {"std": (0.229, 0.224, 0.225)},
    "scale": {"rescale": 1 / 127.5},
    "interpolation": {"resample": "nearest"},
    "near interpolation": {"resample": "bicubic"},
}


@pytest.mark.parametrize("change", MUTATIONS)
def test_wrong_preparation_is_caught(centred: Judged, change: str):
    """The right one agrees; each wrong one is refused by timm's name."""
    assert centred.check().items == len(centred.items)
    with pytest.raises(GateFailed, match=r"not the original's: .+ by timm "):
        centred.check(**MUTATIONS[change])


def _saved(folder: Path, **config: Any) -> Path:
    timm_rows.build(Row("test_resnet", {}, {"input_size": (3, 48, 48)}), folder)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | config))
    return folder


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, folder / "model.safetensors")

    return apply


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


FOLDERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing head": (
        _weights(lambda it: it.pop("fc.weight")),
        "model-unreadable",
        r"has no weights for fc\.weight, which would be random",
    ),
    "head of other classes": (
        _weights(
            lambda it: it.update({"fc.weight": it["fc.weight"][:2].clone(), "fc.bias": it["fc.bias"][:2].clone()})
        ),
        "model-unreadable",
        r"don't fit the model: .*fc\.weight",
    ),
    "unexpected weights": (
        _weights(lambda it: it.update({"neck.weight": torch.ones(3)})),
        "model-unreadable",
        r"weights that the model lacks: neck\.weight",
    ),
    "diverged training": (
        _weights(lambda it: it["fc.bias"].fill_(np.nan)),
        "model-unreadable",
        r"NaN or infinite: fc\.bias",
    ),
    "pickle": (_pickled, "model-unsafe", r"the weights are a pickle: pytorch_model\.bin"),
    "no weights": (lambda it: (it / "model.safetensors").unlink(), "model-unreadable", r"has no model\.safetensors"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_that_timm_would_load_in_part_is_refused(name: str, tmp_path: Path):
    """Timm leaves some weights random, with a line in its log."""
    change, code, message = FOLDERS[name]
    change(_saved(tmp_path / "model"))
    with pytest.raises(UsageError, match=message) as caught:
        timm_folder.load(tmp_path / "model", None)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"label_names": ["blue", "red"]}, "has 2 different labels for 3 classes"),
        ({"label_names": ["blue", "red", "blue"]}, "has 2 different labels for 3 classes"),
        ({"architecture": "no_such_net"}, "timm can't build the model"),
        ({"label_names": 3}, r"config\.json can't be read"),
        ({"pretrained_cfg": {"mean": "blue"}}, "pretrained_cfg in config.json is malformed"),
    ],
)
def test_broken_configuration_is_refused(config: dict[str, Any], message: str, tmp_path: Path):
    """With one line."""
    with pytest.raises(UsageError, match=message) as caught:
        timm_folder.load(_saved(tmp_path / "model", **config), None)
    assert "\n" not in caught.value.message


def test_labels_come_by_number_or_are_the_numbers(tmp_path: Path):
    """Timm saves a dictionary where numbers are left out; folders of its own models have no labels."""
    by_number = {str(number): label for number, label in enumerate(LABELS)}
    assert (
        timm_folder.load(_saved(tmp_path / "one", label_names=by_number), None).signature.postprocess.labels == LABELS
    )
    numbered = timm_folder.load(_saved(tmp_path / "other", label_names=None), None)
    assert numbered.signature.postprocess.labels == ("0", "1", "2")
    assert any("no label_names" in note for note in numbered.notes)


def test_task_of_another_kind_is_refused(tmp_path: Path):
    """A classifier gives no vectors."""
    with pytest.raises(UsageError, match="for image-classification, not for feature-extraction"):
        timm_folder.load(_saved(tmp_path / "model"), "feature-extraction")


def test_export_ships_a_folder_whose_card_names_timm(tmp_path: Path):
    """The whole way, and `edgeml run` on a picture."""
    request = ExportRequest(
        model=str(_saved(tmp_path / "model")),
        name="it",
        targets=("x86-vnni",),
        formats=("onnx",),
        quantize="none",
        output=tmp_path / "out",
    )
    (exported,) = export(request)
    assert exported.manifest.card.oracle.library == f"timm {timm.__version__}"
    assert any("EXIF" in note for note in exported.manifest.card.warnings)
    (picture, *_) = hard_items.hard(exported.manifest.preprocess, exported.manifest.postprocess)
    (answer,) = inference.run(exported.path, [{"image": msgspec.to_builtins(picture.data)}])
    assert {it["label"] for it in answer["labels"]} == set(LABELS)


def test_model_that_answers_otherwise_in_the_library_is_refused(centred: Judged, tmp_path: Path):
    """Timm reads the folder itself, so that weights lost in the export show."""
    folder = _saved(tmp_path / "model")
    _weights(lambda it: it["fc.bias"].add_(1.0))(folder)
    reply = library.of_environment().ask(folder, "image-classification", centred.items)
    with opened(centred.built, centred.manifest) as model, pytest.raises(EdgemlError, match="original's"):
        against_oracle.check(model, centred.items, reply.answers, reply.library)
