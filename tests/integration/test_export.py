"""Real models all the way from their files to bundles: a sentence encoder, a vision model, classifiers, `.onnx`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sentence_transformers import SentenceTransformer

from edgeml import inference, targets, verify
from edgeml.check import gate
from edgeml.pipeline.attempt import SomeFailed
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_core.manifest import Format
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Text
from edgeml_runtime.unpack import unpacked
from support.minilm import BUSY_SLOWER_MAX, FORMATS, TARGETS
from support.scale import scaled

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"

DOUBLER = '''
import torch


def doubler():
    """Two inputs, two outputs, no task."""
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.line = torch.nn.Linear(64, 32)

        def forward(self, left, right):
            return {"sum": self.line(left) + right, "twice": 2 * right}

    return Net(), {"left": torch.linspace(-1, 1, 64)[None], "right": torch.linspace(0, 1, 32)[None]}
'''


def ask_digits(folder: Path, output: Path, **changes: object) -> ExportRequest:
    return ExportRequest(
        **{
            "model": f"{EXAMPLE}:digits",
            "task": "image-classification",
            "targets": ("x86-vnni",),
            "formats": FORMATS,
            "evaluate": folder / "evaluate.jsonl",
            "calibrate": folder / "calibrate.jsonl",
            "output": output,
        }
        | changes
    )


def test_bundles_are_close_to_the_original(bundles: list[Exported]):
    """For each the worst sentence's cosine to PyTorch is at least 0.98."""
    expected = [(target, file_format) for target in TARGETS for file_format in FORMATS]
    assert [(it.manifest.target, it.manifest.file_format) for it in bundles] == expected
    assert {it.manifest.card.parity.against for it in bundles} == {"PyTorch"}
    assert min(it.manifest.card.parity.cosine for it in bundles) >= 0.98


def test_embeddings_are_those_of_sentence_transformers(bundles: list[Exported], minilm: Path):
    """The library that the model is made for gives the same vectors: pooling and normalization came along."""
    texts = ["The pump in hall two has stopped.", "Wheat needs less water than rice does."]
    expected = SentenceTransformer(str(minilm), device="cpu").encode(texts)
    for exported in bundles[:2]:
        with unpacked(exported.path) as opened:
            model = Model.open(opened.folder, opened.manifest)
            found = np.array([model.predict([Text(text)])[0]["embedding"] for text in texts])
            model.close()
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        assert (found * expected).sum(axis=1).min() >= 0.98


def test_texts_of_200_tokens_are_cut_in_neither_format(bundles: list[Exported], minilm: Path):
    """The second half of a long text changes its embedding as it does in PyTorch."""
    pumps = "The pump in hall two has stopped, and its motor draws no current at all. " * 6
    wheat = "Wheat needs far less water than rice does, and ripens in a shorter summer. " * 6
    original = SentenceTransformer(str(minilm), device="cpu")
    counts = [len(original.tokenizer(text)["input_ids"]) for text in (pumps, pumps + wheat)]
    assert 100 < counts[0] < 128
    assert 200 <= counts[1] <= 210
    cut, whole = original.encode(
        [original.tokenizer.decode(original.tokenizer(pumps + wheat)["input_ids"][1:127]), pumps + wheat]
    )
    for exported in bundles[:2]:
        with unpacked(exported.path) as opened:
            model = Model.open(opened.folder, opened.manifest)
            (answer,) = model.predict([Text(pumps + wheat)])
            model.close()
        found = np.array(answer["embedding"])
        assert found @ whole >= 0.98
        assert found @ whole > found @ cut + 0.05
        assert not any("cut at" in warning for warning in exported.manifest.card.warnings)


def test_lengths_of_a_tflite_model_share_their_weights(bundles: list[Exported]):
    """Three signatures, the longest as long as the original takes, in little more than the bytes of one model."""
    onnx_card, tflite = bundles[0].manifest.card, bundles[1].manifest
    assert tflite.preprocess.pad_to == (32, 128, 256)
    assert tflite.card.size_bytes <= 1.15 * onnx_card.size_bytes
    assert tflite.golden.cases >= 3


def test_bundles_are_three_tenths_of_fp32(bundles: list[Exported], minilm: Path):
    """Whole bundles, tokenizer and golden cases included, against the weights that they were made from."""
    fp32_bytes = (minilm / "model.safetensors").stat().st_size
    assert max(it.path.stat().st_size for it in bundles) <= 0.30 * fp32_bytes


def test_work_is_shared_between_targets(bundles: list[Exported], steps: list[str]):
    """One export a format, and one model for all targets that quantize alike."""
    counts = {name: sum(step.startswith(name) for step in steps) for name in ("export", "quantize", "wrote")}
    assert counts == {"export": 2, "quantize": scaled(3, 2), "wrote": 2 * len(TARGETS)}
    recipes = {(it.manifest.target, it.manifest.file_format): it.manifest.card.recipe for it in bundles}
    assert recipes["rpi4", "onnx"] == recipes["x86-vnni", "onnx"] == "dynamic-s8"
    assert recipes.get(("x86-gateway", "onnx"), "dynamic-s8-reduced") == "dynamic-s8-reduced"


@pytest.mark.parametrize(
    ("model", "formats"),
    [
        ("small", ("onnx",)),
        pytest.param("small", ("tflite",), marks=pytest.mark.nightly),
        pytest.param("minilm", FORMATS, marks=pytest.mark.nightly),
    ],
    ids=["small-onnx", "small-tflite", "minilm"],
)
def test_a_second_export_gives_the_same_bytes(model: str, formats: tuple[Format, ...], minilm: Path, tmp_path: Path):
    """In another process, folder, home and order of hashing; and nothing is left in that home."""
    folder = minilm if model == "minilm" else tiny_bert(tmp_path / "small", "text-classification", minilm)
    request = ExportRequest(
        model=str(folder), name="again", targets=("rpi4",), formats=formats, output=tmp_path / "first"
    )
    first = {it.path.name: digest(it.path) for it in export(request)}
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from pathlib import Path; from edgeml.pipeline.export import export;"
        "from edgeml.pipeline.request import ExportRequest as R;"
        "export(R(model=sys.argv[1], name='again', targets=('rpi4',), formats=sys.argv[2].split(','),"
        "output=Path('again')))"
    )
    environment = os.environ | {"HOME": str(home), "PYTHONHASHSEED": "7", "XDG_CACHE_HOME": str(home / "cache")}
    subprocess.run(
        [sys.executable, "-c", code, str(folder), ",".join(formats)], cwd=tmp_path, env=environment, check=True
    )
    again = {path.name: digest(path) for path in (tmp_path / "again").glob("*.edgeml")}
    assert again == first
    assert len(first) == len(formats)
    assert list(home.rglob("*")) == []


def test_golden_outputs_are_reproduced_and_the_rest_is_said(bundles: list[Exported]):
    """Every bundle verifies here; what runs on another CPU is not claimed to be verified there."""
    for exported in bundles:
        assert verify.verify(exported.path).min_cosine >= exported.manifest.golden.min_cosine
        assert exported.measurements.verified_on[0].ok
    board = next(it for it in bundles if it.manifest.target == "rpi4").measurements.verified_on[-1]
    assert (board.cpu, board.how, board.ok) == ("Cortex-A72", "not measured", False)


def test_the_working_folder_is_gone(bundles: list[Exported]):
    """The output holds bundles and their measurements, no more."""
    left = {path.name for path in bundles[0].path.parent.iterdir()}
    assert left == {f"{it.manifest.stem}{end}" for it in bundles for end in (".edgeml", ".measured.json")}


# By day the digits keep it on every board in test_every_target.py.
@pytest.mark.nightly
def test_digits_keep_their_accuracy_in_int8(digits: Path, tmp_path: Path):
    """Static int8 in both formats, for both kinds of x86, loses at most a point on held-out rows; the card has it."""
    found = export(ask_digits(digits, tmp_path / "out", targets=("x86-vnni", "x86-gateway")))
    assert [it.manifest.card.recipe for it in found] == ["static-s8", "static", "static-s8-reduced", "static"]
    for exported in found:
        card = exported.manifest.card
        assert card.accuracy is not None
        assert card.accuracy.rows == 597
        assert card.accuracy.fp32 > 0.9
        assert card.accuracy.drop <= 0.01
        assert card.calibration_rows == 100
        assert card.calibration_sha256
        assert card.parity.cosine > 0.99


def test_without_calibration_nothing_is_static(digits: Path, tmp_path: Path):
    """The convolutional network ships weight-only, and its card says why."""
    found = export(ask_digits(digits, tmp_path / "out", calibrate=None))
    for exported in found:
        assert exported.manifest.card.recipe == "weight-only"
        assert any("no calibration data" in warning for warning in exported.manifest.card.warnings)
        assert exported.manifest.card.accuracy is not None
        assert exported.manifest.card.accuracy.drop <= 0.01


def test_a_failed_gate_leaves_no_bundle_of_its_target(digits: Path, tmp_path: Path):
    """One target has a megabyte of memory: nothing of its bundle is written, and the other one's is."""
    board = tmp_path / "thimble.toml"
    text = (targets.folder() / "x86-vnni.toml").read_text()
    board.write_text(
        text.replace('name = "x86-vnni"', 'name = "thimble"').replace("ram_bytes = 4294967296", "ram_bytes = 1000000")
    )
    output = tmp_path / "out"
    with pytest.raises(SomeFailed, match="no recipe passed for thimble onnx") as caught:
        export(ask_digits(digits, output, targets=(str(board), "x86-vnni"), formats=("onnx",)))
    assert "thimble gives it" in caught.value.message
    assert [it.target for it in caught.value.failed] == ["thimble"]
    (passed,) = caught.value.exported
    assert passed.manifest.target == "x86-vnni"
    assert set(output.iterdir()) == {passed.path, passed.path.with_name(f"{passed.path.stem}.measured.json")}


def test_a_format_that_can_not_be_made_leaves_the_other(tmp_path: Path):
    """No converter makes TFLite of an `.onnx` file: the ONNX bundle is written, and the reason is one line."""
    shape = [1, 64]
    weights = numpy_helper.from_array(np.eye(64, dtype=np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weights],
    )
    path, output = tmp_path / "line.onnx", tmp_path / "out"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    request = ExportRequest(model=str(path), targets=("x86-vnni",), formats=FORMATS, quantize="none", output=output)
    with pytest.raises(SomeFailed, match=r"can't convert an \.onnx file to TFLite") as caught:
        export(request)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 1
    (passed,) = caught.value.exported
    assert passed.manifest.file_format == "onnx"
    assert set(output.iterdir()) == {passed.path, passed.path.with_name(f"{passed.path.stem}.measured.json")}


def test_a_function_of_tensors_keeps_its_names(tmp_path: Path):
    """Two inputs and two outputs by name, fp32 on request, the same numbers in both formats."""
    (tmp_path / "doubler.py").write_text(DOUBLER)
    request = ExportRequest(
        model=f"{tmp_path / 'doubler.py'}:doubler",
        targets=("x86-vnni",),
        formats=FORMATS,
        quantize="none",
        output=tmp_path / "out",
    )
    for exported in export(request):
        asked = {"inputs": {"left": [[0.5] * 64], "right": [[0.25] * 32]}}
        (answer,) = inference.run(exported.path, asked)
        np.testing.assert_allclose(answer["outputs"]["twice"], [[0.5] * 32], atol=1e-6)
        assert exported.manifest.card.parity.cosine > 0.999999
        assert exported.manifest.card.recipe == "none"


@pytest.mark.parametrize(
    "task", ["text-classification", pytest.param("token-classification", marks=pytest.mark.nightly)]
)
def test_classifiers_of_texts_bring_their_labels(task: str, minilm: Path, tmp_path: Path):
    """A small BERT of each kind, saved as transformers saves it, answers with its own labels in both formats."""
    folder = tiny_bert(tmp_path / "bert", task, minilm)
    for exported in export(
        ExportRequest(model=str(folder), targets=("rpi5",), formats=FORMATS, output=tmp_path / "out")
    ):
        assert exported.manifest.task == task
        (answer,) = inference.run(exported.path, {"text": "The filter is clean."})
        entries = answer["labels"] if task == "text-classification" else answer["tokens"]
        assert {entry["label"] for entry in entries} <= {"red", "green", "blue"}
        assert exported.manifest.card.parity.cosine > 0.99


def test_a_vision_transformer_is_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A small ViT takes the dynamic recipes: it is made of matrix products, but for one convolution."""
    monkeypatch.setattr(gate, "SLOWER_MAX", BUSY_SLOWER_MAX)
    folder = tmp_path / "vit"
    config = transformers.ViTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        image_size=32,
        patch_size=8,
        id2label={0: "cat", 1: "dog"},
    )
    transformers.set_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    request = ExportRequest(model=str(folder), targets=("x86-vnni",), formats=("onnx",), output=tmp_path / "out")
    (exported,) = export(request)
    assert exported.manifest.card.recipe == "dynamic-s8"
    assert any("fixed patterns" in warning for warning in exported.manifest.card.warnings)
    assert exported.manifest.card.parity.cosine > 0.99


def test_an_onnx_file_is_quantized_but_never_becomes_tflite(tmp_path: Path):
    """Its original is itself; TFLite is refused with the way out."""
    path = product(tmp_path / "product.onnx")
    (exported,) = export(ExportRequest(model=str(path), targets=("rpi4",), output=tmp_path / "out"))
    assert exported.manifest.card.parity.against == "ONNX fp32"
    assert exported.manifest.card.recipe == "dynamic-s8"
    with pytest.raises(UsageError, match="TFLite") as caught:
        export(ExportRequest(model=str(path), targets=("rpi4",), formats=("tflite",), output=tmp_path / "other"))
    assert caught.value.code == "model-unsupported"


def test_a_pickle_is_refused(tmp_path: Path):
    """Weights that could run code are not read, whatever they hold."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    assert refusal(tmp_path, tmp_path / "out").code == "model-unsafe"


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path):
    """No code comes from a model folder."""
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    assert refusal(tmp_path, tmp_path / "out").code == "model-unsafe"


@pytest.mark.parametrize("model", ["nobody/nothing", "missing.onnx", "missing.py:model"])
def test_what_is_no_model_is_said_so(model: str, tmp_path: Path):
    """A hub id, a missing file, a missing function: there is nothing on this disk to read."""
    found = refusal(model, tmp_path)
    assert found.code == "model-unreadable"
    assert found.hint


def test_an_unknown_architecture_asks_for_the_task(tmp_path: Path):
    """The task can't be told from it; the hint says how to."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForDreaming"]}))
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # without any tensor
    found = refusal(tmp_path, tmp_path / "out")
    assert found.code == "model-unsupported"
    assert "--task" in found.hint


def refusal(model: object, output: Path) -> EdgemlError:
    with pytest.raises(UsageError) as caught:
        export(ExportRequest(model=str(model), targets=("rpi4",), output=output))
    return caught.value


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tiny_bert(folder: Path, task: str, tokenizer_of: Path) -> Path:
    kinds = {
        "text-classification": transformers.BertForSequenceClassification,
        "token-classification": transformers.BertForTokenClassification,
    }
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,  # one fixed length in TFLite; MiniLM has three
        id2label={0: "red", 1: "green", 2: "blue"},
    )
    transformers.set_seed(0)
    kinds[task](config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer_of, model_max_length=32).save_pretrained(folder)
    return folder


def product(path: Path) -> Path:
    weights: NDArray[np.float32] = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_optimum_is_imported_only_for_transformers_models():
    """It takes seconds of CPU time, which a model from elsewhere needn't pay."""
    code = "from edgeml.exporters import to_onnx; import sys; print({'optimum', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
