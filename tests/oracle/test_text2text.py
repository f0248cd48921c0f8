"""Settings of generation_config that shape a text: applied as transformers does, or refused, or on the card."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from edgeml import inference
from edgeml.exporters.huggingface import model as huggingface
from edgeml.exporters.huggingface import whisper
from edgeml.oracle import library
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError
from edgeml_runtime.tasks import Prompt
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


def written(folder: Path, settings: dict[str, Any]) -> Path:
    """A tiny language model with these settings."""
    architectures.build("llama", "text-generation", folder)
    file = folder / "generation_config.json"
    found = json.loads(file.read_text())
    found.pop("_from_model_config", None)  # else transformers drops the rest
    file.write_text(json.dumps(found | settings))
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


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size = 3"),
        ({"bad_words_ids": [[5]]}, "bad_words_ids"),
        ({"forced_bos_token_id": 0}, "forced_bos_token_id = 0"),
        ({"min_new_tokens": 4}, "min_new_tokens = 4"),
    ],
)
def test_settings_of_a_language_model_that_are_not_applied_are_refused_by_name(settings, named, tmp_path):
    """A bundle's text would be another one."""
    with pytest.raises(UsageError, match=named) as caught:
        huggingface.load(written(tmp_path / "model", settings), None, tmp_path)
    assert caught.value.code == "model-unsupported"


def test_settings_of_a_language_model_that_requests_send_are_on_the_card(tmp_path):
    """As those of Qwen2.5; the library is asked without them."""
    settings = {"do_sample": True, "repetition_penalty": 5.0, "temperature": 0.7, "top_k": 50, "num_beams": 4}
    folder = written(tmp_path / "model", settings | {"suppress_tokens": [], "guidance_scale": 1.0})
    source = huggingface.load(folder, None, tmp_path)
    assert source.notes == (
        "the model's generation_config has repetition_penalty 5.0, temperature 0.7: requests have to send them",
        "the model's generation_config searches 4 beams, and edgeml none",
    )
    items = [Prompt(prompt=text, max_new_tokens=12, temperature=0.0, seed=0) for text in TEXTS]
    plain = library.of_environment().ask(written(tmp_path / "plain", {}), "text-generation", items)
    assert library.of_environment().ask(folder, "text-generation", items).answers == plain.answers


def test_settings_of_a_recognizer_that_are_not_applied_are_refused_by_name():
    """A shorter length is on the card."""
    config = transformers.WhisperConfig(max_target_positions=24, d_model=8, encoder_layers=1, decoder_layers=1)
    pretrained = SimpleNamespace(config=config, generation_config=transformers.GenerationConfig(repetition_penalty=1.2))
    with pytest.raises(UsageError, match=r"repetition_penalty = 1\.2"):
        whisper._transcript(pretrained, None, None)
    pretrained.generation_config = transformers.GenerationConfig(max_length=12)
    assert [*whisper._lengths(pretrained)] == [
        "the model's generation_config has max_length 12; edgeml writes texts of up to 24 tokens"
    ]


def test_a_model_from_text_to_text_with_unknown_layers_is_refused_for_the_task_too(tmp_path):
    """By name, with those that are known."""
    folder = made(tmp_path / "model", "longt5", {}, {"architectures": []})
    with pytest.raises(UsageError, match="this model is a LongT5ForConditionalGeneration"):
        huggingface.load(folder, "text2text-generation", tmp_path)
