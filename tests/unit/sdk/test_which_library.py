"""The oracle's adapter for a model, by its files."""

import json

import pytest

from edgeml.oracle import which_library


@pytest.mark.parametrize(
    ("files", "adapter"),
    [
        ({"config.json": {"architectures": ["BertModel"]}}, which_library.TRANSFORMERS),
        ({"config.json": {"architectures": ["BertModel"]}, "modules.json": []}, which_library.SENTENCES),
        ({"config.json": {"architecture": "resnet18", "pretrained_cfg": {}}}, which_library.TIMM),
        ({"config.json": {"architectures": ["TimmWrapperModel"], "pretrained_cfg": {}}}, which_library.TRANSFORMERS),
        ({"config.json": ["pretrained_cfg"]}, which_library.TRANSFORMERS),
        ({}, which_library.TRANSFORMERS),
    ],
)
def test_of_names_the_adapter_of_a_folder(tmp_path, files, adapter):
    """Folders that can't be read go to transformers, which says why."""
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert which_library.of(tmp_path) == adapter


def test_of_names_the_adapter_of_a_file(tmp_path):
    """By its suffix; a folder of that name is none of Keras."""
    (tmp_path / "model.keras").touch()
    (tmp_path / "folder.keras").mkdir()
    assert which_library.of(tmp_path / "model.keras") == which_library.KERAS
    assert which_library.of(tmp_path / "folder.keras") == which_library.TRANSFORMERS
