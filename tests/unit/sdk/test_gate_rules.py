"""The gate's rules on figures: speed, other CPUs, feasibility."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edgeml import targets
from edgeml.check import feasible, greedy_agreement
from edgeml.check.candidate import Candidate
from edgeml.check.gate import Limits, is_slow
from edgeml.check.latency import Times
from edgeml.exporters.source import Built, Signature
from edgeml.pipeline import target_cpu
from edgeml.pipeline.attempt import Failed, NothingPassed
from edgeml_core.card import PERPLEXITY, Accuracy, GreedyAgreement, Latency
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.processing import TensorInput, TensorOutput
from edgeml_core.profile import ModelKind, RecipeName
from edgeml_runtime.model import Model
from edgeml_runtime.unpack import unpacked
from support import tiny_gguf
from support.samples import a_manifest
from support.task_models import NAMES, writer


def times(int8_ms: float, fp32_ms: float = 10.0) -> Times:
    def latency(p50_ms: float) -> Latency:
        return Latency(p50_ms=p50_ms, p90_ms=p50_ms, p99_ms=p50_ms, runs=30, warmup=5)

    return Times(int8=latency(int8_ms), fp32=latency(fp32_ms), load_ms=1.0, first_inference_ms=1.0, peak_rss_bytes=1)


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
def test_is_slow_by_far_or_next_to_nothing_ignores_noise(
    recipe: str, kind: ModelKind, int8_ms: float, fp32_ms: float, *, slow: bool
):
    """By far, or next to nothing: noise decides neither; dynamic int8 of a CNN is given no room at all."""
    assert is_slow(recipe, kind, times(int8_ms, fp32_ms)) is slow


def test_check_speed_failure_names_no_times():
    """The card keeps the reason, and it must be the same on every run."""
    with pytest.raises(GateFailed) as caught:
        Limits(max_drop=0.01).check_speed("dynamic-s8", "encoder", times(123.4))
    assert "123" not in caught.value.message


@pytest.mark.parametrize(("agreed", "passes"), [(95, True), (94, False)])
def test_greedy_agreement_below_that_of_decisions_fails(agreed: int, *, passes: bool):
    """Each token is a decision; the error has the fraction and the limit."""
    found = GreedyAgreement(prompts=10, tokens=100, agreed=agreed, whole=4, first_difference=7.5)
    if passes:
        greedy_agreement.check(found)
        return
    with pytest.raises(GateFailed, match=r"94\.0% of 100 tokens are those that fp32 writes, below 95%"):
        greedy_agreement.check(found)


def test_greedy_agreement_is_measured_behind_fp32s_own_tokens(tmp_path: Path):
    """A model agrees with itself; in a text with other tokens in it, each of them is a difference of its own."""
    writer(tmp_path / "a.edgeml", (NAMES["text-generation"], "1.0", "x86-vnni"))
    seen: list[tuple[int, int]] = []
    with unpacked(tmp_path / "a.edgeml") as bundle:
        model = Model.open(bundle.folder, bundle.manifest)
        items = model.parse({"prompt": "check the valve"}) + model.parse({"prompt": "the valve"})
        written = greedy_agreement.texts(model, items)
        found = greedy_agreement.measure(model, written, lambda done, total: seen.append((done, total)))
        (ids, text), other = written
        changed = greedy_agreement.measure(model, [(ids, [text[0], text[1] + 1, *text[2:]]), other], lambda *_: None)
    tokens = sum(len(text) for _, text in written)
    assert (found.prompts, found.agreed, found.whole, found.first_difference) == (2, tokens, 2, None)
    assert seen == [(1, 2), (2, 2)]
    assert changed.whole == 1
    assert changed.agreed < tokens
    assert changed.first_difference == 2
    assert changed.summary.endswith("1 of 2 texts whole; the others differ from token 2 on")


def sized(folder: Path, recipe: RecipeName, size_bytes: int) -> Built:
    (folder / recipe).mkdir()
    (folder / recipe / "model").write_bytes(bytes(size_bytes))
    signature = Signature(inputs=(), outputs=(), preprocess=TensorInput(), postprocess=TensorOutput())
    return Built(file_format="onnx", recipe=recipe, folder=folder / recipe, model="model", signature=signature)


@pytest.mark.parametrize(
    ("size_bytes", "int8_ms", "fp32_ms", "passes"),
    [
        (1040, 17.0, 10.0, False),
        (1220, 10.0, 10.0, False),
        (970, 9.9, 10.0, False),
        (1220, 0.01, 0.1, False),
        (1220, 8.0, 10.0, True),
        (880, 10.0, 10.0, True),
        (250, 12.0, 10.0, True),
    ],
)
def test_check_gain_takes_what_is_smaller_or_faster(
    tmp_path: Path, size_bytes: int, int8_ms: float, fp32_ms: float, *, passes: bool
):
    """The first rows shipped once: silero-vad at 1.04 and 1.22 x, resemblyzer at 0.97 x. Overhead is no speed."""
    fp32 = sized(tmp_path, "none", 1000)
    int8 = sized(tmp_path, "static-s8", size_bytes)
    candidate = Candidate(model=int8, fp32=fp32, profile=targets.load("rpi4"), manifest=a_manifest())
    gate = Limits(max_drop=0.01)
    if passes:
        gate.check_gain(candidate, times(int8_ms, fp32_ms))
    else:
        expected = rf"neither smaller \({size_bytes / 1000:.2f} x\) nor faster than fp32"
        with pytest.raises(GateFailed, match=expected) as caught:
            gate.check_gain(candidate, times(int8_ms, fp32_ms))
        assert f"{int8_ms:g}" not in caught.value.message.split(")")[1]
    gate.check_gain(replace(candidate, model=fp32), times(int8_ms, fp32_ms))


def measured(drop: float, rows: int) -> Accuracy:
    return Accuracy(metric="accuracy", rows=rows, fp32=1.0, int8=1 - drop, drop=drop, ci95=(0.0, 0.1))


@pytest.mark.parametrize(
    ("whole", "here", "there", "fails"),
    [(0.0, 0.0, 4 / 64, True), (0.0, 0.0, 1 / 64, False), (0.0, 3 / 64, 4 / 64, False), (0.009, 0.0, 2 / 64, True)],
)
def test_check_accuracy_counts_what_the_other_cpu_loses_more(whole: float, here: float, there: float, *, fails: bool):
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
def test_parameters_of_a_configuration_are_a_close_lower_bound(
    tmp_path: Path, sizes: dict[str, object], parameters: int | None
):
    """MiniLM has 22.7 million, GPT-2 124: the bound is below, and close; a network of other parts has none."""
    assert feasible.parameters(config(tmp_path, **sizes)) == parameters


def test_predict_names_what_fits_a_board_and_its_speed_at_most(tmp_path: Path):
    """SmolLM2-135M on a Pi Zero 2 W: fp32 doesn't fit; published runs of it there write 9 to 11 tokens a second."""
    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "vocab_size": 49152}
    heads = {"hidden_act": "silu", "num_attention_heads": 9, "num_key_value_heads": 3}
    model, zero = config(tmp_path, **sizes, **heads), targets.load("rpi-zero2w")
    found = {it.weights: it for it in feasible.predict(model, zero)}
    assert [it.fits for it in found.values()] == [False, False, True]
    assert found["int8"].size_bytes == pytest.approx(134.5e6, rel=0.01)
    speeds = [it.tokens_per_s or 0.0 for it in found.values()]
    assert speeds[0] < 7 < speeds[1] < 11 < speeds[2]
    (nowhere, *_) = feasible.predict(model, targets.load("x86-vnni"))
    assert nowhere.tokens_per_s is None


def test_a_gguf_file_is_counted_as_its_folder_would_be(tmp_path: Path):
    """Its own weights say nothing: any size of weights may be made of them."""
    path = tiny_gguf.write(tmp_path / "model.gguf", kind="Q4_0")
    tokens = len(tiny_gguf.byte_level()["tokens"])
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": tokens}
    heads = {"hidden_act": "silu", "num_attention_heads": 4, "num_key_value_heads": 2}
    assert feasible.parameters(path) == feasible.parameters(config(tmp_path, **sizes, **heads))
    assert [it.fits for it in feasible.predict(path, targets.load("rpi4"))] == [True, True, True]
    path.write_bytes(b"GGUF")
    with pytest.raises(UsageError, match="is cut short"):
        feasible.check_feasible(str(path), targets.load("rpi4"), quantized=True)


def test_predict_of_another_kind_of_model_is_usage(tmp_path: Path):
    """An encoder writes no tokens, at whatever rate."""
    model = config(tmp_path, hidden_size=384, num_hidden_layers=6, vocab_size=100, architectures=["BertModel"])
    with pytest.raises(UsageError, match="has BertModel, which writes no text"):
        feasible.predict(model, targets.load("rpi4"))


def test_predict_of_a_folder_without_sizes_is_usage(tmp_path: Path):
    """The error names the folder."""
    with pytest.raises(UsageError, match=r"has no config\.json"):
        feasible.predict(tmp_path, targets.load("rpi-zero2w"))


def test_check_feasible_depends_on_target_and_budget(tmp_path: Path):
    """600 million weights fit a Pi 4 as int8, not in fp32, not within 30 MB, and not on a Zero."""
    model = str(config(tmp_path, hidden_size=2048, num_hidden_layers=12, vocab_size=0))
    feasible.check_feasible(model, targets.load("rpi4"), quantized=True)
    for name, quantized, most in (("rpi4", False, None), ("rpi4", True, 30_000_000), ("rpi-zero2w", True, None)):
        with pytest.raises(GateFailed, match=r"0\.60 billion weights"):
            feasible.check_feasible(model, targets.load(name), quantized=quantized, max_ram_bytes=most)


def test_nothing_passed_several_recipes_names_each_reason_once():
    """Behind the recipes that failed for it; the hint joins the remedies."""
    one, other = GateFailed("gate-failed", "too far", "come closer"), GateFailed("gate-failed", "too big", "shrink it")
    errors: dict[RecipeName, GateFailed] = {"dynamic-s8": one, "dynamic-u8": one, "weight-only": other}
    error = NothingPassed("rpi4", [Failed(file_format="onnx", recipe=it, error=why) for it, why in errors.items()])
    assert error.message == "no recipe passed for rpi4 onnx: dynamic-s8, dynamic-u8: too far; weight-only: too big"
    assert error.hint == "come closer; or shrink it"
    assert next((tried.recipe, tried.why) for tried, _ in error.candidates) == ("dynamic-s8", "too far")


def test_check_accuracy_of_a_perplexity_counts_its_rise():
    """2 % more than here is no row of 64, and still too much."""
    here, there = (msgspec.structs.replace(measured(drop, 64), metric=PERPLEXITY) for drop in (0.0, 0.02))
    with pytest.raises(GateFailed, match=r"perplexity is worse by about 2\.00%"):
        target_cpu.check_accuracy(here, here, there, cpu="Haswell", max_drop=0.01)


def test_check_accuracy_of_a_perplexity_that_is_no_number_fails():
    """A text has logits that are none, on the other CPU alone."""
    here, there = (msgspec.structs.replace(measured(drop, 64), metric=PERPLEXITY) for drop in (0.0, float("nan")))
    with pytest.raises(GateFailed, match="perplexity is worse by about nan%"):
        target_cpu.check_accuracy(here, here, there, cpu="Haswell", max_drop=0.01)
