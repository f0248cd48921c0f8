"""Architectures that the converters treat unlike the others: right, or a refusal that names the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import safetensors.numpy
import transformers

from edgeml import inference
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task
from support import breadth_models as models

SMALL: Final[dict[str, Any]] = {
    "vocab_size": models.VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 1,
    "initializer_range": 0.2,
    "id2label": models.LABELS,
}


def saved(folder: Path, automatic: Any, config: Any) -> Path:
    """A model of a configuration, with a tokenizer."""
    transformers.set_seed(0)
    automatic.from_config(config).save_pretrained(folder)
    models.tokenizer(160).save_pretrained(folder)
    return folder


def exported(folder: Path, task: Task | None = None) -> list[Exported]:
    """Export a folder in fp32 as ONNX."""
    return export(
        ExportRequest(
            model=str(folder),
            targets=("x86-vnni",),
            formats=("onnx",),
            quantize="none",
            task=task,
            output=folder.parent / "out",
        )
    )


def test_a_model_whose_converter_leaves_an_input_out_answers_as_transformers(tmp_path: Path):
    """BigBird's graph has no `token_type_ids`, which are zero for single texts."""
    config = transformers.BigBirdConfig(**SMALL, max_position_embeddings=160, attention_type="original_full")
    folder = saved(tmp_path / "bigbird", transformers.AutoModelForSequenceClassification, config)
    (bundle,) = exported(folder)
    assert [it.name for it in bundle.manifest.inputs] == ["input_ids", "attention_mask"]
    text = "Wheat needs less water than rice does."
    (expected,) = transformers.pipeline("text-classification", model=str(folder), top_k=None)([text])
    (answer,) = inference.run(bundle.path, {"text": text})
    found = {it["label"]: it["score"] for it in answer["labels"]}
    assert found == pytest.approx({it["label"]: it["score"] for it in expected}, abs=1e-3)


def longformer(folder: Path) -> Path:
    """Its graph takes a mask of the tokens that all others see."""
    config = transformers.LongformerConfig(**SMALL, max_position_embeddings=162, attention_window=[16])
    return saved(folder, transformers.AutoModelForSequenceClassification, config)


def funnel(folder: Path) -> Path:
    """A type that optimum doesn't have."""
    config = transformers.FunnelConfig(
        vocab_size=models.VOCABULARY, block_sizes=[1, 1], d_model=32, n_head=2, d_head=16, d_inner=64, pad_token_id=1
    )
    return saved(folder, transformers.AutoModelForSequenceClassification, config)


def mamba(folder: Path) -> Path:
    """A language model with a state instead of keys and values."""
    config = transformers.MambaConfig(
        vocab_size=models.VOCABULARY, hidden_size=32, num_hidden_layers=1, state_size=8, pad_token_id=1
    )
    return saved(folder, transformers.AutoModelForCausalLM, config)


def vit(folder: Path) -> Path:
    """An encoder of pictures."""
    return Path(models.pretrained(folder, "vit", "image-classification"))


def test_a_model_whose_training_diverged_is_refused(tmp_path: Path):
    """Its answers are NaN for each input."""
    folder = vit(tmp_path / "model")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["classifier.weight"][:] = np.nan
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"NaN or infinite: classifier\.weight") as caught:
        exported(folder)
    assert caught.value.code == "model-unreadable"


@pytest.mark.parametrize(
    ("build", "task", "reason"),
    [
        (longformer, None, "inputs that edgeml can't prepare: global_attention_mask"),
        (funnel, None, "optimum knows no funnel for text-classification"),
        (mamba, None, "keeps no cache of keys and values"),
        (vit, "feature-extraction", "feature-extraction is for models of texts; a vit takes pixel_values"),
    ],
)
def test_an_architecture_that_can_not_be_exported_is_refused_with_its_reason(
    build: Callable[[Path], Path], task: Task | None, reason: str, tmp_path: Path
):
    """In one short line, and nothing is written."""
    with pytest.raises(UsageError, match=reason) as caught:
        exported(build(tmp_path / "model"), task)
    assert caught.value.code == "model-unsupported"
    assert len(caught.value.message) < 200
    assert not (tmp_path / "out").exists()
