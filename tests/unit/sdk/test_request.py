"""What an export is asked, and what it answers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgeml.pipeline.request import Exported, ExportRequest
from edgeml_core.card import Accuracy, Card, Energy, Latency, Measurements, Parity, Verified
from edgeml_core.errors import UsageError
from support import samples

OUT = Path("out")


@pytest.mark.parametrize(
    "change",
    [
        {"targets": ()},
        {"max_drop": 1.5},
        {"max_drop": -0.1},
        {"name": "Not A Name"},
        {"version": "1-beta"},
        {"max_size_bytes": 0},
        {"max_latency_ms": -1.0},
        {"recipe": "dynamic-s9"},
        {"recipe": "dynamic-s8", "quantize": "static"},
    ],
)
def test_a_bad_request_is_refused(change: dict[str, object]):
    """Before anything is loaded."""
    with pytest.raises(UsageError) as caught:
        ExportRequest(**{"model": "m", "targets": ("rpi4",), "output": OUT} | change)
    assert caught.value.code == "usage"


def exported(*, int8_ms: float, recipe: str = "dynamic-s8") -> Exported:
    card = Card(
        recipe=recipe,
        size_bytes=25,
        baseline_size_bytes=100,
        parity=Parity(against="PyTorch", rows=20, max_abs=0.1, cosine=0.99),
        accuracy=Accuracy(metric="accuracy", rows=10, fp32=0.9, int8=0.9, drop=0.0, ci95=(-0.1, 0.1)),
        warnings=("noted",),
    )
    latency = Latency(p50_ms=2.0, p90_ms=2.0, p99_ms=2.0, runs=30, warmup=5)
    return Exported(
        path=OUT / "x.edgeml",
        manifest=samples.a_manifest(card=card),
        measurements=Measurements(
            manifest_sha256="0" * 64,
            cpu="a CPU",
            threads=1,
            fp32=latency,
            int8=msgspec.structs.replace(latency, p50_ms=int8_ms),
            load_ms=1.0,
            first_inference_ms=1.0,
            peak_rss_bytes=1,
            throughput_per_s=500.0,
            energy=Energy(joules_per_inference=None, note="no counters"),
            verified_on=(Verified(cpu="a CPU", how="measured", ok=True),),
        ),
    )


def test_the_json_answer_has_the_documented_shape():
    """Exactly the keys of cli.md's table, down to the inner objects."""
    answer = exported(int8_ms=1.0).to_dict()
    assert list(answer) == [
        *("path", "name", "version", "target", "format", "recipe", "size_bytes", "baseline_size_bytes", "accuracy"),
        *("latency_ms", "parity", "verified_on", "choice", "warnings"),
    ]
    assert answer["accuracy"] == {"metric": "accuracy", "fp32": 0.9, "int8": 0.9, "drop": 0.0, "ci95": [-0.1, 0.1]}
    assert answer["latency_ms"] == {"fp32_p50": 2.0, "int8_p50": 1.0, "measured_on": "a CPU"}
    assert answer["parity"] == {"max_abs": 0.1, "cosine": 0.99}
    assert answer["verified_on"] == [{"cpu": "a CPU", "how": "measured", "ok": True}]
    assert answer["warnings"] == ["noted"]


def test_a_bundle_slower_than_fp32_is_warned_of():
    """Where int8 doesn't pay on this CPU, the answer says so; an fp32 bundle has nothing to be slower than."""
    assert exported(int8_ms=4.0).warnings == ("noted", "on this CPU it runs at 0.50 times the speed of fp32")
    assert exported(int8_ms=4.0, recipe="none").warnings == ("noted",)
