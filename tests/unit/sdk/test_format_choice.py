"""Which format ships for a target, on made-up attempts and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from edgeml import targets
from edgeml.check.candidate import Candidate
from edgeml.check.checks import Findings
from edgeml.check.latency import Times
from edgeml.exporters.source import Built, Signature
from edgeml.pipeline import format_choice
from edgeml.pipeline.attempt import Attempt, Failed, Passed
from edgeml.pipeline.comparison import Comparison, Outcome, Ratio
from edgeml.pipeline.request import ExportRequest
from edgeml_core.card import Card, Latency, Parity
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.manifest import Format
from edgeml_core.processing import TensorInput, TensorOutput
from edgeml_core.profile import Evidence, Profile, RecipeName
from support.samples import a_manifest

HERE = targets.this_machine()
ELSEWHERE = msgspec.structs.replace(
    next(it for it in targets.all() if it.cpu.arch != HERE.cpu.arch), evidence={}, name="board"
)
BOTH: tuple[Format, ...] = ("onnx", "tflite")


def passed(file_format: Format, recipe: RecipeName = "weight-only", cosine: float = 0.99) -> Passed:
    """A candidate that passed, at this distance from its original."""
    latency = Latency(p50_ms=1.0, p90_ms=1.0, p99_ms=1.0, runs=30, warmup=5)
    signature = Signature(inputs=(), outputs=(), preprocess=TensorInput(), postprocess=TensorOutput())
    built = Built(file_format=file_format, recipe=recipe, folder=Path("x"), model="m", signature=signature)
    parity = Parity(against="PyTorch", rows=20, max_abs=0.1, cosine=cosine)
    card = Card(recipe=recipe, size_bytes=1, baseline_size_bytes=4, parity=parity)
    return Passed(
        file_format=file_format,
        recipe=recipe,
        candidate=Candidate(model=built, fp32=built, profile=HERE, manifest=a_manifest()),
        findings=Findings(by_output=(), card=card, cases=(), ram_bytes=0),
        times=Times(int8=latency, fp32=latency, load_ms=1.0, first_inference_ms=1.0, peak_rss_bytes=1),
    )


def failed(file_format: Format) -> Failed:
    return Failed(file_format=file_format, recipe="weight-only", error=GateFailed("gate-failed", "lost"))


def never(candidates: Sequence[Passed]) -> Comparison:
    raise AssertionError(f"{[it.file_format for it in candidates]} were timed")


def compared(winner: Format, outcome: Outcome, other_ratio: float = 2.0) -> Comparison:
    """The outcome of turns in which the loser took `other_ratio` times as long as the winner."""
    ratios = tuple(
        Ratio(
            file_format=it,
            expected_ms=1.0,
            time_ratio=1.0 if it == winner else other_ratio,
            interval=(other_ratio, other_ratio),
        )
        for it in BOTH
    )
    return Comparison(winner=winner, outcome=outcome, turns=9, ratios=ratios)


@pytest.mark.parametrize(
    ("cosines", "found", "sentence"),
    [
        ((0.99, 0.99), compared("tflite", "cost"), "tflite ships: it takes less time than onnx"),
        ((0.99, 0.98), compared("tflite", "cost"), "tflite ships although onnx is closer to the original"),
        (
            (0.99, 0.998),
            compared("tflite", "cost"),
            "tflite ships: it is closer to the original than onnx, and takes no",
        ),
        ((0.99, 0.998), compared("tflite", "cost", 0.9), "tflite ships although onnx takes less time"),
        ((0.99, 0.99), compared("onnx", "near"), "onnx ships: tflite costs as much over the expected lengths, and it"),
        ((0.99, 0.99), compared("onnx", "unclear"), "onnx ships: this host was too busy to tell its time from that of"),
        ((0.98, 0.99), compared("tflite", "unclear"), "and it is closer to the original"),
        ((0.99, 0.99), compared("onnx", "trivial"), "and it comes first in the profile"),
    ],
)
def test_choose_on_a_cpu_of_the_targets_kind_ships_the_winner_of_the_turns(
    cosines: tuple[float, float], found: Comparison, sentence: str
):
    """All formats are tried, the comparison decides, and one sentence for the card says why, without figures of it."""
    attempts = {it: passed(it, cosine=cosine) for it, cosine in zip(BOTH, cosines, strict=True)}
    for order in (BOTH, BOTH[::-1]):
        chosen = format_choice.choose(order, HERE, lambda it: [attempts[it]], compare=lambda _: found)
        assert chosen.winner is attempts[found.winner]
        assert sentence in chosen.reason
        assert [it.file_format for it in chosen.attempts] == list(BOTH)
        assert chosen.comparison is found


def test_choose_single_format_that_passed_is_not_timed():
    """The other format failed its gate, so there is nothing to compare."""
    chosen = format_choice.choose(BOTH, HERE, lambda it: [failed(it) if it == "onnx" else passed(it)], compare=never)
    assert chosen.winner is not None
    assert chosen.reason == "tflite ships: it is the only format that passed"


def test_choose_nothing_passed_has_no_winner():
    """All attempts are there for the error."""
    chosen = format_choice.choose(BOTH, HERE, lambda it: [failed(it)], compare=never)
    assert (chosen.winner, len(chosen.attempts), chosen.reason) == (None, 2, "")


def test_choose_for_another_cpu_without_evidence_takes_the_profiles_order():
    """The second format is not even built, unless the first fails; this machine's times have no say."""
    chosen = format_choice.choose(BOTH[::-1], ELSEWHERE, lambda it: [passed(it)], compare=never)
    assert [it.file_format for it in chosen.attempts] == ["onnx"]
    assert "no published figure compares the formats" in chosen.reason
    chosen = format_choice.choose(
        BOTH, ELSEWHERE, lambda it: [failed(it) if it == "onnx" else passed(it)], compare=never
    )
    assert chosen.winner is not None
    assert chosen.winner.file_format == "tflite"


def believing(file_format: Format) -> Profile:
    evidence = Evidence(format=file_format, why="it won elsewhere")
    return msgspec.structs.replace(ELSEWHERE, evidence={"static": evidence})


@pytest.mark.parametrize(
    ("named", "recipe", "built", "ships"),
    [
        ("onnx", "static-s8", ["onnx"], "onnx"),
        ("tflite", "static-s8", ["onnx", "tflite"], "tflite"),
        ("tflite", "weight-only", ["onnx"], "onnx"),
    ],
)
def test_choose_for_another_cpu_by_evidence_for_the_family_that_passed(
    named: Format, recipe: RecipeName, built: list[Format], ships: Format
):
    """Evidence on static int8 has no say over a model whose weights alone are int8."""

    def attempts(file_format: Format) -> list[Attempt]:
        return [passed(file_format, recipe if file_format == "onnx" or recipe != "static-s8" else "static")]

    profile = believing(named)
    chosen = format_choice.choose(BOTH, profile, attempts, compare=never)
    assert [it.file_format for it in chosen.attempts] == built
    assert chosen.winner is not None
    assert chosen.winner.file_format == ships
    by_evidence = f"by evidence for {profile.cpu.core}: it won elsewhere" in chosen.reason
    assert by_evidence == (recipe == "static-s8")


def test_choose_evidence_for_a_format_that_failed_ships_the_other():
    """Evidence favours, but the gate decides."""
    chosen = format_choice.choose(
        BOTH, believing("tflite"), lambda it: [failed(it) if it == "tflite" else passed(it, "static-s8")], compare=never
    )
    assert chosen.winner is not None
    assert chosen.winner.file_format == "onnx"
    assert "by evidence" not in chosen.reason


def test_choose_format_that_the_model_cant_be_converted_to_is_left():
    """The notes say why; when the model can be converted to none, the first format's error is raised."""

    def unsupported(file_format: Format) -> list[Attempt]:
        if file_format == "tflite":
            raise UsageError("model-unsupported", "no Einsum")
        return [passed(file_format)]

    chosen = format_choice.choose(BOTH[::-1], HERE, unsupported, compare=never)
    assert chosen.winner is not None
    assert chosen.notes == ("tflite was left: no Einsum",)
    with pytest.raises(UsageError, match="no Einsum"):
        format_choice.choose(("tflite",), HERE, unsupported, compare=never)


def test_list_formats_recipe_of_one_engine_leaves_one_format():
    """For a recipe that only onnxruntime has, nothing is built for LiteRT."""
    request = ExportRequest(model="m", targets=("rpi4",), output=Path("out"), recipe="dynamic-s8")
    assert list(format_choice.list_formats(request, [ELSEWHERE])) == [(ELSEWHERE, ("onnx",))]


def test_evidence_of_every_target_has_a_source_and_an_engine():
    """Each board's evidence names a format that the board runs."""
    found = {profile.name: {family: it.format for family, it in profile.evidence.items()} for profile in targets.all()}
    assert found["rpi4"] == {"dynamic": "onnx", "static": "tflite"}
    assert all(it.why and "." not in it.why[-1:] for profile in targets.all() for it in profile.evidence.values())
