"""The gate's rules on figures: speed, other CPUs, feasibility, and which format ships."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from edgeml import targets
from edgeml.check import feasible
from edgeml.check.gate import Limits, is_faster, is_slow
from edgeml.check.latency import Times
from edgeml.pipeline import format_choice, target_cpu
from edgeml.pipeline.attempt import Attempt, NothingPassed
from edgeml.pipeline.request import ExportRequest
from edgeml_core.card import PERPLEXITY, Accuracy, Latency
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.manifest import Format
from edgeml_core.profile import ModelKind, RecipeName

HERE = targets.this_machine()
ELSEWHERE = next(it for it in targets.all() if it.cpu.arch != HERE.cpu.arch)


def times(int8_ms: float, fp32_ms: float = 10.0) -> Times:
    def latency(p50_ms: float) -> Latency:
        return Latency(p50_ms=p50_ms, p90_ms=p50_ms, p99_ms=p50_ms, runs=30, warmup=5)

    return Times(int8=latency(int8_ms), fp32=latency(fp32_ms), load_ms=1.0, first_inference_ms=1.0, peak_rss_bytes=1)


def attempt(
    file_format: Format, int8_ms: float, error: GateFailed | None = None, recipe: RecipeName = "weight-only"
) -> Attempt:
    return Attempt(file_format=file_format, recipe=recipe, times=times(int8_ms), error=error)


@pytest.mark.parametrize(
    ("recipe", "kind", "int8_ms", "fp32_ms", "slow"),
    [
        ("dynamic-s8", "encoder", 20.0, 10.0, True),
        ("dynamic-s8", "encoder", 11.0, 10.0, False),
        ("dynamic-s8", "cnn", 10.1, 10.0, True),
        ("dynamic", "cnn", 0.02, 0.01, True),
        ("static-s8", "cnn", 0.02, 0.01, False),
        ("static-s8", "cnn", 13.0, 10.0, True),
        ("none", "cnn", 99.0, 10.0, False),
    ],
)
def test_what_is_slow(recipe: str, kind: ModelKind, int8_ms: float, fp32_ms: float, *, slow: bool):
    """By far, or next to nothing: noise decides neither; dynamic int8 of a CNN is given no room at all."""
    assert is_slow(recipe, kind, times(int8_ms, fp32_ms)) is slow


def test_why_a_recipe_was_slow_has_no_times():
    """The card keeps the reason, and it must be the same on every run."""
    with pytest.raises(GateFailed) as caught:
        Limits(max_drop=0.01).require_fast("dynamic-s8", "encoder", times(123.4))
    assert "123" not in caught.value.message


def measured(drop: float, rows: int) -> Accuracy:
    return Accuracy(metric="accuracy", rows=rows, fp32=1.0, int8=1 - drop, drop=drop, ci95=(0.0, 0.1))


@pytest.mark.parametrize(
    ("whole", "here", "there", "fails"),
    [(0.0, 0.0, 4 / 64, True), (0.0, 0.0, 1 / 64, False), (0.0, 3 / 64, 4 / 64, False), (0.009, 0.0, 2 / 64, True)],
)
def test_another_cpu_is_judged_by_what_it_loses_more(whole: float, here: float, there: float, *, fails: bool):
    """One row of 64 proves nothing, nor do rows that are lost here too; four do."""
    figures = measured(whole, 1000), measured(here, 64), measured(there, 64)
    if fails:
        with pytest.raises(GateFailed, match="on Haswell, emulated"):
            target_cpu.check_accuracy(*figures, cpu="Haswell", max_drop=0.01)
    else:
        target_cpu.check_accuracy(*figures, cpu="Haswell", max_drop=0.01)


def config(folder: Path, **sizes: object) -> Path:
    (folder / "config.json").write_text(json.dumps(sizes))
    return folder


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536, "vocab_size": 30522}, 22_337_280),
        ({"n_embd": 768, "n_layer": 12, "vocab_size": 50257}, 123_532_032),
        ({"hidden_sizes": [64, 128], "depths": [2, 2]}, None),
    ],
)
def test_parameters_follow_from_the_configuration(tmp_path: Path, sizes: dict[str, object], parameters: int | None):
    """MiniLM has 22.7 million, GPT-2 124: the bound is below, and close; a network of other parts has none."""
    assert feasible.parameters(config(tmp_path, **sizes)) == parameters


def test_what_is_infeasible_depends_on_what_is_asked(tmp_path: Path):
    """600 million weights fit a Pi 4 as int8, not in fp32, not within 30 MB, and not on a Zero."""
    model = str(config(tmp_path, hidden_size=2048, num_hidden_layers=12, vocab_size=0))
    feasible.check_feasible(model, targets.load("rpi4"), quantized=True)
    for name, quantized, most in (("rpi4", False, None), ("rpi4", True, 30_000_000), ("rpi-zero2w", True, None)):
        with pytest.raises(GateFailed, match=r"0\.60 billion weights"):
            feasible.check_feasible(model, targets.load(name), quantized=quantized, max_ram_bytes=most)


def never(one: Attempt, other: Attempt) -> bool:
    raise AssertionError(f"{one.file_format} was timed against {other.file_format}")


@pytest.mark.parametrize(
    ("one_ms", "other_ms", "faster"), [(5.0, 10.0, True), (8.1, 10.0, False), (20.0, 10.0, False), (0.05, 0.19, False)]
)
def test_what_is_faster_by_far(one_ms: float, other_ms: float, *, faster: bool):
    """By more than a quarter, and of something that takes time at all."""
    assert is_faster(times(one_ms, other_ms)) is faster


@pytest.mark.parametrize(("by_far", "shipped"), [(True, "tflite"), (False, "onnx")])
def test_where_times_tell_the_faster_format_ships(*, by_far: bool, shipped: str):
    """On a machine of the target's kind, when it is faster by far; else the profile's order holds. The card says so."""
    asked = []

    def is_faster(one: Attempt, other: Attempt) -> bool:
        asked.append((one.file_format, other.file_format))
        return by_far

    chosen = format_choice.choose(("onnx", "tflite"), HERE, lambda it: [attempt(it, 10.0)], is_faster=is_faster)
    assert chosen.winner is not None
    assert chosen.winner.file_format == shipped
    assert asked == [("tflite", "onnx")]
    assert len(chosen.attempts) == 2
    assert chosen.notes[0].startswith(shipped)
    assert "1.25 times as fast" in chosen.notes[0]


def test_where_times_tell_nothing_the_profile_decides():
    """The second format is not even built, unless the first fails."""
    chosen = format_choice.choose(("onnx", "tflite"), ELSEWHERE, lambda it: [attempt(it, 1.0)], is_faster=never)
    assert [it.file_format for it in chosen.attempts] == ["onnx"]
    assert "not timed against each other" in chosen.notes[0]
    failed = GateFailed("gate-failed", "lost")
    chosen = format_choice.choose(
        ("onnx", "tflite"),
        ELSEWHERE,
        lambda it: [attempt(it, 1.0, failed if it == "onnx" else None)],
        is_faster=never,
    )
    assert chosen.winner is not None
    assert chosen.winner.file_format == "tflite"


def test_a_format_without_a_way_for_the_model_is_left():
    """The card says why; when none has a way, the first one's error is the answer."""

    def unsupported(file_format: Format) -> list[Attempt]:
        if file_format == "tflite":
            raise UsageError("model-unsupported", "no Einsum")
        return [attempt(file_format, 1.0)]

    chosen = format_choice.choose(("tflite", "onnx"), HERE, unsupported, is_faster=never)
    assert chosen.winner is not None
    assert "tflite was left: no Einsum" in chosen.notes
    with pytest.raises(UsageError, match="no Einsum"):
        format_choice.choose(("tflite",), HERE, unsupported, is_faster=never)


def test_a_recipe_of_one_engine_leaves_one_format():
    """Asked for a recipe that only onnxruntime has, nothing is built for LiteRT."""
    request = ExportRequest(model="m", targets=("rpi4",), output=Path("out"), recipe="dynamic-s8")
    assert list(format_choice.wanted(request, [ELSEWHERE])) == [(ELSEWHERE, ("onnx",))]


def test_nothing_passed_says_each_reason_once():
    """Behind the recipes that failed for it; the hint joins the remedies."""
    one, other = GateFailed("gate-failed", "too far", "come closer"), GateFailed("gate-failed", "too big", "shrink it")
    failed = [attempt("onnx", 1, one, "dynamic-s8"), attempt("onnx", 1, one, "dynamic-u8"), attempt("onnx", 1, other)]
    error = NothingPassed("rpi4", failed)
    assert error.message == "no recipe passed for rpi4 onnx: dynamic-s8, dynamic-u8: too far; weight-only: too big"
    assert error.hint == "come closer; or shrink it"
    assert next((tried.recipe, tried.why) for tried, _ in error.candidates) == ("dynamic-s8", "too far")


def test_a_perplexity_elsewhere_is_judged_by_its_rise():
    """2 % more than here is no row of 64, and still too much."""
    here, there = (msgspec.structs.replace(measured(drop, 64), metric=PERPLEXITY) for drop in (0.0, 0.02))
    with pytest.raises(GateFailed, match=r"perplexity is worse by about 2\.00%"):
        target_cpu.check_accuracy(here, here, there, cpu="Haswell", max_drop=0.01)
