"""Folders that another version of the library saved are judged by that version, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeml.exporters.huggingface import rope
from edgeml.oracle import hard_items, library
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError
from support import breadth_models as models
from support import cache

LATER = "transformers==5.17.0"
TORCH = "torch==2.13.0"
#: Saves a language model with the settings of another one; transformers 5 writes its rotary positions its own way.
SAVE = """
import sys, transformers
folder, theta = sys.argv[1], float(sys.argv[2])
transformers.set_seed(0)
config = transformers.LlamaConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.2,
    vocab_size=400, max_position_embeddings=160, bos_token_id=0, eos_token_id=2,
    rope_parameters={"rope_theta": theta, "rope_type": "default"},
)
transformers.LlamaForCausalLM(config).save_pretrained(folder)
"""


@pytest.fixture(scope="module")
def later() -> Path:
    """The Python of an environment with transformers 5; the test cache keeps it."""

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile"]
        subprocess.run([*pip, TORCH], check=True)
        subprocess.run([*pip, LATER, "numpy", "pillow", "--editable", cache.ROOT], check=True)

    with cache.kept("transformers-5", make, [Path(__file__)]) as folder:
        return folder / "bin/python"


def saved(python: Path, folder: Path, theta: float) -> str:
    models.tokenizer(160).save_pretrained(folder)
    subprocess.run([python, "-c", SAVE, folder, str(theta)], check=True)
    assert json.loads((folder / "config.json").read_text())["rope_parameters"]["rope_theta"] == theta
    return str(folder)


@pytest.mark.nightly
@pytest.mark.network
def test_model_of_a_later_version_is_judged_by_that_version(
    later: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its rotary positions are those of its file, not the default that an earlier version takes."""
    model = saved(later, tmp_path / "model", theta=50.0)
    monkeypatch.setenv(library.PYTHON_VARIABLE, str(later))
    request = ExportRequest(
        model=model, targets=("x86-vnni",), formats=("onnx",), quantize="none", output=tmp_path / "out"
    )
    (exported,) = export(request)
    found = exported.manifest.card.oracle
    assert found
    assert found.library == "transformers 5.17.0"
    assert found.items >= len(hard_items.TEXTS) - 1


def test_rope_parameters_that_the_library_ignores_are_refused(tmp_path: Path):
    """An earlier version would answer with its own default, and be no oracle."""
    models.tokenizer(160).save_pretrained(tmp_path)
    parameters = {"rope_theta": 50.0, "rope_type": "default"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_parameters": parameters}))
    with pytest.raises(UsageError, match="rope_parameters, which transformers 4") as caught:
        library.of_environment().ask(tmp_path, "text-generation", [])
    assert library.PYTHON_VARIABLE in caught.value.hint


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
