"""`Bundle`: a file opened, described, and run by the same functions as on the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgeml
from edgeml.bundles import Bundle
from edgeml_core import card
from edgeml_core.card import Accuracy, Card, Energy, Latency, Measurements, Parity, Verified
from edgeml_core.errors import RejectedError, UsageError
from support import samples
from support.tiny_models import tiny_onnx_bundle

LATENCY = Latency(p50_ms=2.0, p90_ms=2.0, p99_ms=2.0, runs=30, warmup=5)


@pytest.fixture
def exported(tmp_path: Path):
    """Write a bundle with its measurements, as an export does."""

    def write(*, int8_ms: float, recipe: str = "dynamic-s8", manifest_sha256: str | None = None) -> Bundle:
        noted = Card(
            recipe=recipe,
            size_bytes=25,
            baseline_size_bytes=100,
            parity=Parity(against="PyTorch", rows=20, max_abs=0.1, cosine=0.99),
            accuracy=Accuracy(metric="accuracy", rows=10, fp32=0.9, int8=0.9, drop=0.0, ci95=(-0.1, 0.1)),
            warnings=("noted",),
        )
        path = tmp_path / "sample.edgeml"
        path.write_bytes(samples.a_bundle(samples.a_manifest(card=noted)))
        measured = Measurements(
            manifest_sha256=manifest_sha256 or Bundle.open(path).manifest_sha256,
            cpu="a CPU",
            threads=1,
            fp32=LATENCY,
            int8=msgspec.structs.replace(LATENCY, p50_ms=int8_ms),
            load_ms=1.0,
            first_inference_ms=1.0,
            peak_rss_bytes=1,
            throughput_per_s=500.0,
            energy=Energy(joules_per_inference=None, note="no counters"),
            verified_on=(Verified(cpu="a CPU", how="measured", ok=True),),
        )
        (tmp_path / f"sample{card.MEASUREMENTS_SUFFIX}").write_bytes(card.encode_measurements(measured))
        return Bundle.open(path)

    return write


def test_to_dict_of_an_exported_bundle_has_the_documented_keys(exported):
    """Exactly the keys of cli.md's table, down to the inner objects."""
    answer = exported(int8_ms=1.0).to_dict()
    assert list(answer) == [
        *("path", "name", "version", "target", "format", "recipe", "size_bytes", "baseline_size_bytes", "accuracy"),
        *(
            "greedy",
            "kernels",
            "latency_ms",
            "prefill",
            "memory_fraction",
            "parity",
            "verified_on",
            "choice",
            "warnings",
        ),
    ]
    assert answer["accuracy"] == {"metric": "accuracy", "fp32": 0.9, "int8": 0.9, "drop": 0.0, "ci95": [-0.1, 0.1]}
    assert answer["latency_ms"] == {"fp32_p50": 2.0, "int8_p50": 1.0, "measured_on": "a CPU"}
    assert answer["parity"] == {"max_abs": 0.1, "cosine": 0.99}
    assert answer["verified_on"] == [{"cpu": "a CPU", "how": "measured", "ok": True}]
    assert answer["warnings"] == ["noted"]
    assert (
        answer["greedy"] is answer["kernels"] is answer["prefill"] is answer["memory_fraction"] is None
    )  # it writes no text


def test_to_dict_without_measurements_has_the_same_keys(exported, tmp_path):
    """A bundle that was copied without the file beside it."""
    whole = exported(int8_ms=1.0).to_dict()
    (tmp_path / f"sample{card.MEASUREMENTS_SUFFIX}").unlink()
    answer = Bundle.open(tmp_path / "sample.edgeml").to_dict()
    assert answer == {**whole, "latency_ms": None, "verified_on": []}


def test_warnings_of_a_bundle_slower_than_fp32_name_its_speed(exported):
    """Where int8 is slower on this CPU, the answer says so; an fp32 bundle has nothing to be slower than."""
    assert exported(int8_ms=4.0).warnings == ("noted", "on this CPU it runs at 0.50 times the speed of fp32")
    assert exported(int8_ms=4.0, recipe="none").warnings == ("noted",)


def test_measurements_of_another_bundle_are_rejected_when_they_are_read(exported):
    """A bundle opens and runs without them."""
    bundle = exported(int8_ms=1.0, manifest_sha256="0" * 64)
    with pytest.raises(RejectedError, match="measures another bundle") as caught:
        _ = bundle.measurements
    assert caught.value.code == "digest-mismatch"


def test_open_of_an_absent_file_raises_a_usage_error(tmp_path):
    """The same error as on the command line."""
    with pytest.raises(edgeml.UsageError) as caught:
        edgeml.Bundle.open(tmp_path / "absent.edgeml")
    assert caught.value.code == "usage"


def test_run_takes_lists_and_arrays(tmp_path):
    """Of one request, or of several; the answers are the same."""
    path = tmp_path / "tiny.edgeml"
    tiny_onnx_bundle(path)
    bundle = edgeml.Bundle.open(str(path))
    (spec,) = bundle.manifest.inputs
    rows = np.arange(np.prod([abs(length) for length in spec.shape]), dtype=np.float32)
    rows = rows.reshape([abs(length) for length in spec.shape])
    given, nested = {"inputs": {spec.name: rows}}, {"inputs": {spec.name: rows.tolist()}}
    assert bundle.run(given) == bundle.run(nested) == bundle.run([nested])
    assert bundle.run([given, given]) == bundle.run(given) * 2
    with pytest.raises(UsageError, match="there is no input 'other'"):
        bundle.run({"inputs": {"other": rows}})


def test_verify_and_bench_run_the_bundle_here(tmp_path):
    """As `edgeml verify` and `edgeml bench` do."""
    path = tmp_path / "tiny.edgeml"
    tiny_onnx_bundle(path)
    bundle = Bundle.open(path)
    assert bundle.verify().max_abs == 0.0
    found = bundle.bench(threads=1, seconds=0.01)
    assert (found.manifest_sha256, found.threads, found.on) == (bundle.manifest_sha256, 1, "local")
    with pytest.raises(UsageError, match="broker"):
        bundle.verify("device:barn-1")


def test_a_bundle_is_immutable(exported):
    """Its fields describe a file."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        exported(int8_ms=1.0).path = Path("other")
