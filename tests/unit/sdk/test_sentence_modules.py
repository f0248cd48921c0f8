"""A sentence-transformers folder's own files: what a bundle can express, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeml.exporters.huggingface import sentence_modules
from edgeml_core.errors import UsageError
from edgeml_core.processing import Embedding

MODULES = [{"type": "st.models.Transformer", "path": ""}, {"type": "st.models.Pooling", "path": "1_Pooling"}]


def write(folder: Path, pooling: object = None, modules: object = MODULES, prompts: object = None) -> Path:
    (folder / "1_Pooling").mkdir()
    for name, value in (
        ("modules", modules), ("1_Pooling/config", pooling), ("config_sentence_transformers", prompts)
    ):  # fmt: skip
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"}]
)
def test_folder_decides_pooling_and_normalization(tmp_path: Path, pooling: object):
    """As versions 4 and 5 write it."""
    write(tmp_path, pooling, [*MODULES, {"type": "x.Normalize", "path": "2"}])
    assert sentence_modules.embedding(tmp_path, "y") == Embedding(output="y", pooling="cls", normalize=True)


@pytest.mark.parametrize(
    ("pooling", "modules", "reason"),
    [
        ({"pooling_mode_max_tokens": True}, MODULES, "the pooling is max"),
        ({"pooling_mode": "lasttoken"}, MODULES, "the pooling is lasttoken"),
        ({"pooling_mode": ["cls", "mean"]}, MODULES, "the pooling is cls and mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, MODULES, "the pooling is cls and mean"),
        (None, [*MODULES, {"type": "x.Dense", "path": "2_Dense"}], "further modules: Dense"),
    ],
    ids=["max", "last token", "joined", "joined by version 4", "dense"],
)
def test_pooling_that_devices_do_not_have_is_refused(tmp_path: Path, pooling: object, modules: object, reason: str):
    """Another vector than the model's would come out."""
    write(tmp_path, pooling, modules)
    with pytest.raises(UsageError, match=reason) as caught:
        sentence_modules.embedding(tmp_path, "y")
    assert caught.value.code == "model-unsupported"


def test_vectors_that_are_cut_are_refused_with_the_setting(tmp_path: Path):
    """The oracle would compare vectors of two lengths, and blame the model's type."""
    write(tmp_path, {"pooling_mode": "mean"}, prompts={"truncate_dim": 256})
    with pytest.raises(UsageError, match="truncate_dim 256") as caught:
        sentence_modules.embedding(tmp_path, "y")
    assert caught.value.code == "model-unsupported"


def test_prompt_is_the_default_one(tmp_path: Path):
    """Other prompts are for callers that name them."""
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}
    assert sentence_modules.prompt(write(tmp_path, prompts=prompts)) == "query: "


@pytest.mark.parametrize("prompts", [None, {"prompts": {"query": "query: "}, "default_prompt_name": None}])
def test_no_default_is_no_prompt(tmp_path: Path, prompts: object):
    """As sentence-transformers reads it."""
    assert sentence_modules.prompt(write(tmp_path, prompts=prompts)) == ""


def test_default_that_names_no_prompt_is_refused(tmp_path: Path):
    """The library refuses such a folder, too."""
    with pytest.raises(UsageError, match="'query' by default that it doesn't have"):
        sentence_modules.prompt(write(tmp_path, prompts={"prompts": {}, "default_prompt_name": "query"}))


def test_pooling_without_the_prompt_is_refused(tmp_path: Path):
    """A bundle pools over all tokens."""
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    write(tmp_path, {"pooling_mode": "mean", "include_prompt": False}, prompts=prompts)
    with pytest.raises(UsageError, match="leaves the prompt's tokens out"):
        sentence_modules.embedding(tmp_path, "y")
