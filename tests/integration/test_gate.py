"""The gate on real models: what fails leaves nothing behind, what ships has won."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeml import targets
from edgeml.check import gate
from edgeml.check.gate import FASTER_MIN
from edgeml.pipeline import candidates
from edgeml.pipeline.attempt import NothingPassed
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml.quantize import recipes
from edgeml.verify.emulation import emulated
from edgeml_core.card import Tried
from edgeml_core.errors import GateFailed

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"
GATEWAY = targets.load("x86-gateway")

#: In every layer two inputs of each block of 32 are hostile. One is always 0 and has weights that drown the others: a
#: scale for weights that holds it loses all others, and 16 bits don't hold it. One is always 3000 and has no weight:
#: the same for activations. In fp32 neither changes anything.
HOSTILE = """
import json
import torch

WIDTH, LAYERS, CLASSES = 64, 6, 10


class Hostile(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        sizes = [WIDTH] * LAYERS + [CLASSES]
        self.layers = torch.nn.ModuleList(torch.nn.Linear(one, two) for one, two in zip(sizes, sizes[1:]))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(3)
                layer.weight[:, 0::32], layer.weight[:, 1::32] = 100000, 0

    def forward(self, x):
        silent = torch.ones(WIDTH)
        silent[0::32] = silent[1::32] = 0
        loud = torch.zeros(WIDTH)
        loud[1::32] = 3000
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x * silent + loud))
        return self.layers[-1](x * silent + loud).mean(1)


def hostile():
    return Hostile().eval(), torch.zeros(1, 3, WIDTH)


def rows(path, count, seed):
    model, values = Hostile().eval(), torch.randn(count, 3, WIDTH, generator=torch.Generator().manual_seed(seed))
    with open(path, "w") as file, torch.no_grad():
        for value, label in zip(values, model(values).argmax(1)):
            file.write(json.dumps({"inputs": {"input": [value.tolist()]}, "label": int(label)}) + "\\n")


if __name__ == "__main__":
    rows("calibrate.jsonl", 50, 1)
    rows("evaluate.jsonl", 200, 2)
"""

#: All weights of the first layer and nearly all inputs are large and positive: two products fill the 16 bits in which a
#: CPU without VNNI adds them up.
SATURATING = """
import json
import torch


def saturating():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1024, 10)
    )
    with torch.no_grad():
        net[0].weight.uniform_(0.6, 1)
    return net.eval(), torch.zeros(1, 1, 8, 8)


def rows(path, count, seed):
    model, _ = saturating()
    values = 1 - torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) ** 2
    with open(path, "w") as file, torch.no_grad():
        for value, label in zip(values, model(values).argmax(1)):
            file.write(json.dumps({"inputs": {"input": [value.tolist()]}, "label": int(label)}) + "\\n")


if __name__ == "__main__":
    rows("calibrate.jsonl", 50, 1)
    rows("evaluate.jsonl", 200, 2)
"""

#: Dynamic int8 reaches the products of a network that is made of convolutions, and gains nothing there.
CONVOLUTIONS = """
import torch


def convolutions():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(64, 64, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 10),
    ).eval(), torch.linspace(-1, 1, 3 * 96 * 96).reshape(1, 3, 96, 96)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the hostile model and its rows."""
    return written(tmp_path_factory.mktemp("hostile"), "hostile", HOSTILE)


@pytest.fixture(scope="module")
def saturating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the saturating model and its rows."""
    return written(tmp_path_factory.mktemp("saturating"), "saturating", SATURATING)


def written(folder: Path, name: str, code: str) -> Path:
    """A program and the rows that it writes for itself."""
    (folder / f"{name}.py").write_text(code)
    subprocess.run([sys.executable, f"{name}.py"], cwd=folder, check=True)
    return folder


def ask(folder: Path, output: Path, **changes: object) -> ExportRequest:
    """The model in the folder, which is called as it is, for a gateway."""
    name = next(folder.glob("*.py")).stem
    return ExportRequest(
        **{
            "model": f"{folder / name}.py:{name}",
            "targets": ("x86-gateway",),
            "formats": ("onnx",),
            "evaluate": folder / "evaluate.jsonl",
            "calibrate": folder / "calibrate.jsonl",
            "output": output,
        }
        | changes
    )


def refused(request: ExportRequest) -> NothingPassed:
    with pytest.raises(NothingPassed) as caught:
        export(request)
    assert not request.output.exists()
    return caught.value


def test_a_hostile_model_can_not_pass(hostile: Path, tmp_path: Path):
    """Exit 1, every candidate of both formats with its figures and its reason, and no file anywhere."""
    command = [
        *(sys.executable, "-m", "edgeml", "export", "hostile.py:hostile", "--target", "x86-vnni", "--json"),
        *("--calibrate", "calibrate.jsonl", "--evaluate", "evaluate.jsonl", "-o", str(tmp_path / "out")),
    ]
    ran = subprocess.run(command, cwd=hostile, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    *events, last = [json.loads(line) for line in ran.stdout.splitlines()]
    assert last["error"]["code"] == "gate-failed"
    assert all(words in last["error"]["hint"] for words in ("calibrate on more rows", "adapters", "another target"))
    (told,) = [it for it in events if it["event"] == "candidates"]
    profile = targets.load("x86-vnni")
    asked = {(engine, recipe) for engine in profile.engines for recipe in profile.engines[engine].recipes["encoder"]}
    engines = {"onnx": "onnxruntime", "tflite": "litert"}
    assert {(engines[it["format"]], it["recipe"]) for it in told["candidates"]} == asked
    assert all(it["why"] for it in told["candidates"])
    assert max(it["cosine"] for it in told["candidates"] if it["cosine"] is not None) < 0.95
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_what_int8_can_not_hold_ships_in_16_bits(tmp_path: Path):
    """The hostile model with weights that 16 bits hold: every int8 recipe fails, and half the bytes pass."""
    folder = tmp_path / "milder"
    folder.mkdir()
    (exported,) = export(ask(written(folder, "hostile", HOSTILE.replace("100000", "3000")), tmp_path / "out"))
    card = exported.manifest.card
    assert card.recipe == "weight-only-fp16"
    assert [it.recipe for it in card.tried] == list(GATEWAY.engines["onnxruntime"].recipes["encoder"])
    assert not any(it.passed for it in card.tried[:-1])
    assert card.size_bytes < 0.6 * card.baseline_size_bytes
    assert card.parity.cosine > 0.9999
    assert [(it.cpu, it.how) for it in card.verified] == [("Haswell", "emulated")]


def test_the_table_is_shown_to_people_too(hostile: Path, tmp_path: Path):
    """One line a candidate on stderr, also under --quiet."""
    command = [
        *(sys.executable, "-m", "edgeml", "export", "hostile.py:hostile", "--target", "rpi4", "--quiet"),
        *("--format", "onnx", "--recipe", "dynamic-s8", "-o", str(tmp_path / "out")),
    ]
    ran = subprocess.run(command, cwd=hostile, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    lines = ran.stderr.splitlines()
    assert lines[0] == "candidates for rpi4:"
    assert "outcome" in lines[1]
    assert lines[2].split()[:2] == ["onnx", "dynamic-s8"]
    assert "below 0.95" in lines[2]
    assert lines[-1].startswith("hint: ")


def test_a_target_that_fails_does_not_stop_the_others(saturating: Path, tmp_path: Path):
    """Full range on Haswell fails, here it passes: exit 1, one table, and the one bundle with its measurements."""
    command = [
        *(sys.executable, "-m", "edgeml", "export", "saturating.py:saturating", "--json", "--format", "onnx"),
        *("--target", "x86-gateway", "--target", "x86-vnni", "--recipe", "static-s8"),
        *("--calibrate", "calibrate.jsonl", "--evaluate", "evaluate.jsonl", "-o", str(tmp_path / "out")),
    ]
    ran = subprocess.run(command, cwd=saturating, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    *events, answer, last = [json.loads(line) for line in ran.stdout.splitlines()]
    (told,) = [it for it in events if it["event"] == "candidates"]
    assert told["target"] == "x86-gateway"
    assert [it["target"] for it in answer["bundles"]] == ["x86-vnni"]
    assert last["error"]["code"] == "gate-failed"
    assert "no recipe passed for x86-gateway onnx" in last["error"]["message"]
    assert "1 other bundle(s) passed" in last["error"]["message"]
    stem = "saturating-1-x86-vnni-onnx"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{stem}.edgeml", f"{stem}.measured.json"}


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_a_cnn_never_ships_dynamic_int8_that_is_slower(file_format: str, tmp_path: Path):
    """Asked for by name, it ships only if it was the faster one in the same run."""
    (tmp_path / "convolutions.py").write_text(CONVOLUTIONS)
    request = ExportRequest(
        model=f"{tmp_path / 'convolutions.py'}:convolutions",
        targets=("x86-vnni",),
        formats=(file_format,),
        quantize="dynamic",
        output=tmp_path / "out",
    )
    try:
        (exported,) = export(request)
    except NothingPassed as error:
        timed = [pair for pair in error.candidates if pair[1]]
        assert all(times.int8_ms * FASTER_MIN > times.fp32_ms for _, times in timed if times)
        assert not request.output.exists()
    else:
        assert exported.manifest.card.recipe.startswith("dynamic")
        assert exported.measurements.speedup >= 1


def test_recipes_with_the_operators_of_a_slow_one_are_not_tried(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Noise would choose among equals, and not the most accurate one."""
    for module in (gate, candidates):
        monkeypatch.setattr(module, "is_slow", lambda *_: True)
    model = f"{Path(__file__).parents[2] / 'examples/digits.py'}:digits"
    request = ExportRequest(
        model=model,
        task="image-classification",
        targets=("x86-vnni",),
        formats=("onnx",),
        quantize="static",
        calibrate=digits / "calibrate.jsonl",
        output=tmp_path / "out",
    )
    with pytest.raises(NothingPassed) as caught:
        export(request)
    why = {tried.recipe: tried.why for tried, _ in caught.value.candidates}
    timed = {tried.recipe for tried, times in caught.value.candidates if times}
    assert timed == {name for name in why if recipes.TABLE[name].method == "minmax"}
    assert why["static-s8-percentile"].startswith("computes as static-s8, which is slower than fp32")


def test_budgets_are_held(hostile: Path, tmp_path: Path):
    """Each alone refuses what the others let pass, and names both figures."""
    for budget, words in (
        ({"max_size_bytes": 1000}, "--max-size allows 0.001 MB"),
        ({"max_ram_bytes": 1_000_000}, "--max-ram allows 1 MB"),
        ({"max_latency_ms": 1e-6}, "--max-latency 1e-06"),
    ):
        error = refused(ask(hostile, tmp_path / "out", targets=("x86-vnni",), quantize="none", **budget))
        ((tried, timed),) = error.candidates
        assert words in tried.why
        assert tried.size_bytes > 1000
        assert (timed is not None) == ("max_latency_ms" in budget)
    generous = {"max_size_bytes": 10**6, "max_ram_bytes": 10**9, "max_latency_ms": 1e3}
    (exported,) = export(ask(hostile, tmp_path / "out", targets=("x86-vnni",), quantize="none", **generous))
    assert exported.path.exists()


def test_an_infeasible_request_is_refused_before_any_work(tmp_path: Path):
    """A model of 13 billion weights on a Pi 4: the arithmetic, from its config.json alone."""
    model = tmp_path / "llama-13b"
    model.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "intermediate_size": 13824,
        "vocab_size": 32000,
        "hidden_act": "silu",
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    }
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(GateFailed) as caught:
        export(ExportRequest(model=str(model), targets=("rpi4",), output=tmp_path / "out"))
    assert "12.85 billion weights x 0.5 byte(s) x 1.4 + 75 MB" in caught.value.message
    assert "a model is given 2147 MB of the board's 4295 MB" in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_forced_recipe_that_saturates_fails_on_the_emulated_cpu(saturating: Path, tmp_path: Path):
    """Full range on Haswell: as good as fp32 on this machine, wrong there; the table says so."""
    assert emulated.unready(GATEWAY) == ""
    error = refused(ask(saturating, tmp_path / "out", recipe="static-s8"))
    ((tried, _),) = error.candidates
    assert tried.drop is not None
    assert tried.drop <= 0.01
    assert "on Haswell" in tried.why


def test_the_ladder_repairs_what_saturates(saturating: Path, tmp_path: Path):
    """On a gateway whose profile tries the full range first, the reduced one ships, and the card says how it came."""
    board = tmp_path / "older.toml"
    text = (targets.folder() / "x86-gateway.toml").read_text().replace('name = "x86-gateway"', 'name = "older"')
    board.write_text(re.sub(r"(encoder|cnn) = \[[^\]]*\]", r'\1 = ["static-s8", "static-s8-reduced"]', text, count=2))
    (exported,) = export(ask(saturating, tmp_path / "out", targets=(str(board),)))
    card = exported.manifest.card
    assert card.recipe == "static-s8-reduced"
    assert [(it.recipe, it.passed) for it in card.tried] == [("static-s8", False), ("static-s8-reduced", True)]
    assert any("static-s8 was left" in warning and "Haswell" in warning for warning in card.warnings)
    (proved,) = card.verified
    assert (proved.cpu, proved.how) == ("Haswell", "emulated")
    assert proved.accuracy is not None
    assert proved.accuracy.drop <= 0.02
    assert ("Haswell", "emulated", True) in [(it.cpu, it.how, it.ok) for it in exported.measurements.verified_on]


@pytest.fixture(scope="module")
def automatic(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Exported]:
    """The digits for this machine and for another, with no format named."""
    output = tmp_path_factory.mktemp("automatic") / "out"
    request = ExportRequest(
        model=f"{EXAMPLE}:digits",
        task="image-classification",
        targets=("x86-vnni", "rpi-zero2w"),
        evaluate=digits / "evaluate.jsonl",
        calibrate=digits / "calibrate.jsonl",
        output=output,
    )
    return export(request)


def test_export_without_a_format_ships_one_and_the_card_states_why(automatic: list[Exported]):
    """One bundle a target; for a CPU that this machine can't time, the profile's evidence decides."""
    assert [it.manifest.target for it in automatic] == ["x86-vnni", "rpi-zero2w"]
    board = automatic[1].manifest
    assert board.file_format == "tflite"
    assert board.card.choice
    assert board.card.choice.startswith("tflite ships, by evidence for Cortex-A53: ")
    assert automatic[1].measurements.compared == ()
    assert board.card.verified[0].cpu == "Cortex-A53"


def test_the_card_has_every_candidate_and_each_class(automatic: list[Exported]):
    """What was tried is in the bundle, its times beside it, and accuracy by class, the worst first."""
    for exported in automatic:
        card = exported.manifest.card
        shipped = [it for it in card.tried if it.passed and it.format == exported.manifest.file_format]
        assert shipped == [
            Tried(
                format=exported.manifest.file_format,
                recipe=card.recipe,
                size_bytes=card.size_bytes,
                ram_bytes=exported.manifest.needs.ram_bytes,
                cosine=card.parity.cosine,
                drop=card.accuracy.drop if card.accuracy else None,
                ci95=card.accuracy.ci95 if card.accuracy else None,
            )
        ]
        assert {it.recipe for it in exported.measurements.candidates} >= {card.recipe}
        assert card.accuracy is not None
        classes = card.accuracy.classes
        assert sorted(it.label for it in classes) == sorted(f"{digit}" for digit in range(10))
        drops = [it.fp32 - it.int8 for it in classes]
        assert drops == sorted(drops, reverse=True)
        whole = np.average([it.int8 for it in classes], weights=[it.rows for it in classes])
        assert whole == pytest.approx(card.accuracy.int8, abs=1e-5)
