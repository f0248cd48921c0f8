"""The oracle's adapter for a model, by its files."""

import json

import pytest

from edgeml.oracle import adapters


@pytest.mark.parametrize(
    ("files", "adapter"),
    [
        ({"config.json": {"architectures": ["BertModel"]}}, adapters.TRANSFORMERS),
        ({"config.json": {"architectures": ["BertModel"]}, "modules.json": []}, adapters.SENTENCES),
        ({"config.json": {"architecture": "resnet18", "pretrained_cfg": {}}}, adapters.TIMM),
        ({"config.json": {"architectures": ["TimmWrapperModel"], "pretrained_cfg": {}}}, adapters.TRANSFORMERS),
        ({"config.json": ["pretrained_cfg"]}, adapters.TRANSFORMERS),
        ({}, adapters.TRANSFORMERS),
    ],
)
def test_of_names_the_adapter_of_a_folder(tmp_path, files, adapter):
    """Folders that can't be read go to transformers, which says why."""
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert adapters.of(tmp_path) == adapter


def test_of_names_the_adapter_of_a_file(tmp_path):
    """By its suffix; a folder of that name is none of Keras."""
    (tmp_path / "model.keras").touch()
    (tmp_path / "folder.keras").mkdir()
    assert adapters.of(tmp_path / "model.keras") == adapters.KERAS
    assert adapters.of(tmp_path / "folder.keras") == adapters.TRANSFORMERS
