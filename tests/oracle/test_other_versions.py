"""Folders that each version of a library saved answer as that version does, in both formats."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from edgeml import inference
from edgeml.exporters.huggingface import rope
from edgeml.oracle import child, hard_items, library
from edgeml.oracle.protocol import Ask, RawItem
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_runtime.verify.golden import cosine
from oracle import other_versions, saved_folders
from support import breadth_models as models
from support import cache, sounds

#: The project's own environment: transformers 4.57 and sentence-transformers 5.
OWN: Final = "own"
SENTENCES: Final = ("mean", "cls", "prompts", "pair")
#: An encoder whose tokenizer keeps white space at the ends of a text.
SPACES: Final = "spaces"
CASES: Final = [
    *((version, kind) for version in (OWN, "transformers-5") for kind in saved_folders.KINDS if kind != SPACES),
    *(("sentence-transformers-4", kind) for kind in SENTENCES),
]
#: Kinds without a TFLite form, and a word of the refusal.
NO_TFLITE: Final = {"language": "TFLite's shapes are fixed", "sound": "the answers are not the original's"}
#: Between scores, and between a vector's length and its original's.
TOLERANCE: Final = 1e-3
COSINE_MIN: Final = 0.9999


@pytest.fixture(scope="module")
def version(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """An environment's name and Python."""
    if request.param == OWN:
        yield OWN, sys.executable
        return
    with other_versions.python(request.param) as python:
        yield request.param, str(python)


@pytest.mark.nightly
@pytest.mark.network
@pytest.mark.parametrize(("version", "kind"), CASES, indirect=["version"])
def test_folder_answers_as_the_version_that_saved_it(
    version: tuple[str, str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In ONNX and TFLite; a format that can't is refused."""
    _, python = version
    monkeypatch.setenv(library.PYTHON_VARIABLE, python)
    items = raw_items(kind, tmp_path)
    expected = saved(python, kind, tmp_path / "model", items)
    for file_format in ("onnx", "tflite"):
        request = ExportRequest(
            model=str(tmp_path / "model"),
            targets=("x86-vnni",),
            formats=(file_format,),
            quantize="none",
            output=tmp_path / file_format,
        )
        if file_format == "tflite" and kind in NO_TFLITE:
            with pytest.raises(EdgemlError, match=NO_TFLITE[kind]):
                export(request)
            continue
        (exported,) = export(request)
        assert exported.manifest.card.oracle
        for item, answer in zip(items, expected, strict=True):
            (found,) = inference.run(exported.path, asked(kind, item))
            same(kind, found, answer)


@pytest.mark.nightly
@pytest.mark.network
@pytest.mark.parametrize("version", ["sentence-transformers-4"], indirect=True)
def test_encoder_of_version_4_that_strips_texts_before_its_tokenizer_is_refused(
    version: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Version 5 gives texts to the tokenizer as they are, and so does a bundle."""
    _, python = version
    monkeypatch.setenv(library.PYTHON_VARIABLE, python)
    saved(python, SPACES, tmp_path / "model", [])
    request = ExportRequest(
        model=str(tmp_path / "model"),
        targets=("x86-vnni",),
        formats=("onnx",),
        quantize="none",
        output=tmp_path / "out",
    )
    with pytest.raises(EdgemlError, match=r"'  Two.* by sentence-transformers 4"):
        export(request)


def raw_items(kind: str, folder: Path) -> list[Any]:
    """Items as people have them: texts, pairs, or paths of files."""
    if kind == "pair":
        return [list(pair) for pair in hard_items.PAIRS if all(pair)]  # a bundle refuses an empty second text
    if kind == "picture":
        pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
        for number, one in enumerate(pixels):
            Image.fromarray(one).save(folder / f"{number}.png")
        return [str(folder / f"{number}.png") for number in range(len(pixels))]
    if kind == "sound":
        for seconds in (1, 2):
            (folder / f"{seconds}.wav").write_bytes(sounds.wav(sounds.tone(seconds * 0.7)))
        return [str(folder / f"{seconds}.wav") for seconds in (1, 2)]
    texts = [text for text in hard_items.TEXTS if text.strip()]
    return texts if kind == "language" else [*texts, " ".join(texts) * 4]


def saved(python: str, kind: str, folder: Path, items: Sequence[Any]) -> list[Any]:
    """Let another Python save a folder, and return its answers."""
    command = [python, saved_folders.__file__, kind, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(cache.ROOT / "tests"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, input=json.dumps(items), text=True, capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def asked(kind: str, item: Any) -> dict[str, Any]:
    """Make the request."""
    match kind:
        case "pair":
            return {"text": item[0], "text_pair": item[1]}
        case "picture" | "sound":
            content = base64.b64encode(Path(item).read_bytes()).decode()
            return {"image" if kind == "picture" else "audio": content}
        case "language":
            return {"prompt": item, "max_new_tokens": saved_folders.WRITTEN_TOKENS, "temperature": 0}
        case _:
            return {"text": item}


def same(kind: str, found: dict[str, Any], expected: Any) -> None:
    """Compare two answers."""
    match kind:
        case "text" | "picture" | "sound":
            scores = {it["label"]: it["score"] for it in expected}
            assert {it["label"]: it["score"] for it in found["labels"]} == pytest.approx(scores, abs=TOLERANCE)
        case "tokens":
            assert [it["label"] for it in found["tokens"]] == [it["entity"] for it in expected]
            scores = [it["score"] for it in expected]
            assert [it["score"] for it in found["tokens"]] == pytest.approx(scores, abs=TOLERANCE)
        case "language":  # transformers 5 drops the space before a continuation
            assert found["text"].strip() == expected.strip()
        case "pair":
            assert [it["score"] for it in found["labels"]] == pytest.approx([expected], abs=TOLERANCE)
        case _:
            vectors = np.asarray(found["embedding"]), np.asarray(expected)
            assert cosine(*vectors) >= COSINE_MIN
            assert np.linalg.norm(vectors[0]) == pytest.approx(np.linalg.norm(vectors[1]), rel=TOLERANCE)


def test_rope_parameters_that_the_library_ignores_are_refused(tmp_path: Path):
    """An earlier version would answer with its own default, and be no oracle."""
    models.tokenizer(160).save_pretrained(tmp_path)
    parameters = {"rope_theta": 50.0, "rope_type": "default"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_parameters": parameters}))
    with pytest.raises(UsageError, match="rope_parameters, which transformers 4") as caught:
        library.of_environment().ask(tmp_path, "text-generation", [])
    assert library.PYTHON_VARIABLE in caught.value.hint


@pytest.mark.parametrize(
    "settings",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
def test_cross_encoder_of_an_earlier_version_is_judged_as_one(tmp_path: Path, settings: dict[str, object]):
    """Its folder has no modules.json; transformers' pipeline would apply a sigmoid that the folder doesn't name."""
    saved_folders.reranker(tmp_path / "own")
    folder = models.pretrained(tmp_path / "model", "bert", "text-classification")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes((tmp_path / "own" / name).read_bytes())
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    pair = hard_items.PAIRS[0]
    reply = child.reply(
        Ask(folder=folder, task="text-classification", items=(RawItem(text=pair[0], text_pair=pair[1]),))
    )
    assert reply.library.startswith("sentence-transformers")
    assert reply.answers[0].answer
    (label,) = reply.answers[0].answer["labels"]
    assert label["score"] == pytest.approx(saved_folders.score(tmp_path / "own", [pair])[0], abs=1e-5)


def test_folder_that_only_a_later_version_loads_is_refused_with_that_version(tmp_path: Path):
    """Version 4 has no class for a tokenizer that version 5 saved."""
    models.pretrained(tmp_path, "bert", "text-classification")
    for name, changes in (
        ("config.json", {"transformers_version": "5.24.0"}),
        ("tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"}),
    ):
        path = tmp_path / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused = child.reply(Ask(folder=str(tmp_path), task="text-classification", items=())).refused
    assert refused
    assert "TokenizersBackend does not exist" in refused.message
    assert refused.hint == child.LATER_HINT.format(5)


@pytest.mark.parametrize(
    ("parameters", "theta", "scaling"),
    [
        ({"rope_theta": 50.0, "rope_type": "default"}, 50.0, None),
        ({"rope_theta": 50.0, "rope_type": "linear", "factor": 2.0}, 50.0, {"rope_type": "linear", "factor": 2.0}),
    ],
)
def test_rope_parameters_become_those_of_this_version(
    tmp_path: Path, parameters: dict[str, object], theta: float, scaling: object
):
    """As transformers 4 names them."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_parameters": parameters}))
    found = rope.config(tmp_path)
    assert (found.rope_theta, found.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize("layer", ["full_attention", "chunked_attention"])
def test_rope_parameters_by_layer_that_this_version_has_no_names_for_are_refused(tmp_path: Path, layer: str):
    """Rather than left out."""
    parameters = {layer: {"rope_theta": 50.0, "rope_type": "default"}}
    model_type = "llama" if layer != "full_attention" else "gpt2"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "rope_parameters": parameters}))
    with pytest.raises(UsageError, match=f"rope_parameters for {layer}"):
        rope.config(tmp_path)
