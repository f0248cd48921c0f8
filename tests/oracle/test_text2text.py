"""Settings of generation_config that shape a text made of another one: applied as transformers does, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from edgeml import inference
from edgeml.exporters.huggingface import model as huggingface
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError
from oracle import architectures

TEXTS = ("No fault was found.", "Water boils at a lower temperature there, oddly.")
#: As BART's for summaries of news, on a smaller scale.
SUMMARY = {
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "min_length": 10,
    "max_length": 18,
    "no_repeat_ngram_size": 3,
    "repetition_penalty": 1.0,
    "length_penalty": 2.0,
    "num_beams": 4,
}
#: Of a text with the first one.
OTHERS = {
    "max_length": 20,
    "max_new_tokens": 30,
    "min_length": 0,
    "min_new_tokens": 12,
    "bad_words_ids": [[250], [2]],
    "suppress_tokens": [251, 252],
    "begin_suppress_tokens": [253, 300],
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 2,
    "do_sample": True,
}


def made(folder: Path, architecture: str, settings: dict[str, Any], config: dict[str, Any]) -> Path:
    """A tiny model with these settings."""
    architectures.build(architecture, architectures.REWRITING, folder)
    for name, changes in (("generation_config.json", settings), ("config.json", config)):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("architecture", "settings", "config"),
    [
        ("bart", SUMMARY, {"prefix": " ", "task_specific_params": {"summarization": {"min_length": 3}}}),
        ("t5", OTHERS, {}),
        ("t5", {"max_length": 20, "eos_token_id": [2, 300, 301]}, {}),
    ],
)
def test_settings_are_those_of_transformers(architecture, settings, config, tmp_path):
    """The card says what differs: beams, and tokens that are drawn. Settings of other tasks are not applied."""
    folder = made(tmp_path / "model", architecture, settings, config)
    request = ExportRequest(
        model=str(folder), targets=("x86-vnni",), formats=("onnx",), quantize="none", output=tmp_path / "out"
    )
    (exported,) = export(request)
    notes = exported.manifest.card.warnings
    assert any("searches 4 beams" in it for it in notes)
    assert any("draws no tokens" in it for it in notes) == settings.get("do_sample", False)
    pipeline = transformers.pipeline(architectures.REWRITING, model=str(folder), device="cpu")
    asked = {"num_beams": 1, "do_sample": False}
    if "max_new_tokens" in settings:  # the pipeline's own would take its place
        asked["max_new_tokens"] = settings["max_new_tokens"]
    for text in TEXTS:
        (found,) = inference.run(exported.path, {"text": text})
        assert found["text"] == pipeline(text, **asked)[0]["generated_text"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bad_words_ids": [[5, 6]]}, "bad_words_ids of 2 tokens"),
        ({"sequence_bias": [[[5], -1.0]]}, "sequence_bias"),
        ({"encoder_repetition_penalty": 1.5}, r"encoder_repetition_penalty = 1\.5"),
        ({"eos_token_id": None}, "no eos_token_id"),
    ],
)
def test_settings_that_are_not_applied_are_refused_by_name(settings, named, tmp_path):
    """Before anything is exported."""
    folder = made(tmp_path / "model", "t5", settings, {})
    with pytest.raises(UsageError, match=named) as caught:
        huggingface.load(folder, None, tmp_path)
    assert caught.value.code == "model-unsupported"


def test_a_model_from_text_to_text_with_unknown_layers_is_refused_for_the_task_too(tmp_path):
    """By name, with those that are known."""
    folder = made(tmp_path / "model", "longt5", {}, {"architectures": []})
    with pytest.raises(UsageError, match="this model is a LongT5ForConditionalGeneration"):
        huggingface.load(folder, "text2text-generation", tmp_path)
