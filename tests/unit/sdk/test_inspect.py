"""What `edgeml inspect` prints: every figure of a card and its measurements, in words and tables."""

import msgspec
import pytest
from click.testing import CliRunner

from edgeml.cli.inspect import inspect
from edgeml_core import bundle, card
from edgeml_core.card import (
    Accuracy,
    CandidateTimes,
    Card,
    ClassAccuracy,
    Energy,
    Kernels,
    KernelUse,
    Latency,
    Measurements,
    MemoryBound,
    Parity,
    Prefill,
    TargetVerification,
    Tried,
    Verified,
)
from support.samples import a_bundle, a_manifest

ACCURACY = Accuracy(
    metric="accuracy",
    rows=1000,
    fp32=0.93,
    int8=0.925,
    drop=0.005,
    ci95=(-0.001, 0.011),
    classes=(
        ClassAccuracy(label="urgent", rows=400, fp32=0.9, int8=0.88),
        ClassAccuracy(label="routine", rows=600, fp32=0.95, int8=0.955),
    ),
)
CARD = Card(
    recipe="dynamic-s8-mixed",
    size_bytes=25,
    baseline_size_bytes=100,
    parity=Parity(against="PyTorch", rows=20, max_abs=0.1, cosine=0.99),
    accuracy=ACCURACY,
    choice="onnx ships: it comes first in the profile",
    kernels=Kernels(
        cpu="Cortex-A72",
        how="emulated",
        runtime="onnxruntime 1.30.0",
        operators=452,
        products=(KernelUse(operator="MatMulNBits", bits=4, count=121, share=1.0, kernel="fp32 products"),),
    ),
    tried=(
        Tried(format="onnx", recipe="dynamic-s8", why="accuracy drops by 3 %", drop=0.03, ci95=(0.02, 0.04)),
        Tried(format="onnx", recipe="dynamic-s8-mixed", size_bytes=25, cosine=0.99, drop=0.005, ci95=(-0.001, 0.011)),
    ),
    verified=(
        TargetVerification(
            cpu="Haswell",
            how="emulated",
            min_cosine=0.999,
            max_abs=0.01,
            accuracy=msgspec.structs.replace(ACCURACY, rows=64, int8=0.9219, classes=()),
        ),
        TargetVerification(
            cpu="Cortex-A72", how="not measured", note="not verified on rpi4: run `edgeml target prepare`"
        ),
    ),
)
LATENCY = Latency(p50_ms=9.0, p90_ms=9.5, p99_ms=11.0, runs=100, warmup=5)


def measured(manifest_sha256, **changes):
    """Measurements of the bundle with that digest."""
    valid = Measurements(
        manifest_sha256=manifest_sha256,
        cpu="EPYC",
        threads=2,
        fp32=LATENCY,
        int8=msgspec.structs.replace(LATENCY, p50_ms=3.0),
        load_ms=70.0,
        first_inference_ms=5.0,
        peak_rss_bytes=85_000_000,
        throughput_per_s=311.4,
        energy=Energy(joules_per_inference=None, note="the RAPL counters can be read by root only"),
        verified_on=(
            Verified(cpu="EPYC", how="measured", ok=True),
            Verified(cpu="Haswell", how="emulated", ok=True),
        ),
        candidates=(CandidateTimes(format="onnx", recipe="dynamic-s8", fp32_ms=9.0, int8_ms=2.5),),
    )
    return msgspec.structs.replace(valid, **changes)


@pytest.fixture
def printed(tmp_path):
    """What inspect prints of a bundle with `CARD`, and with measurements as changed."""

    def run(**changes):
        path = tmp_path / f"sample{bundle.BUNDLE_SUFFIX}"
        path.write_bytes(a_bundle(a_manifest(card=CARD)))
        with path.open("rb") as source:
            digest = bundle.BundleReader(source).manifest_sha256
        beside = path.with_name(path.stem + card.MEASUREMENTS_SUFFIX)
        beside.write_bytes(card.encode_measurements(measured(digest, **changes)))
        done = CliRunner().invoke(inspect, [str(path)], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout.splitlines()

    return run


def line(printed, begin):
    """The one line that begins so."""
    (found,) = (it for it in (" ".join(it.split()) for it in printed) if it.startswith(begin))
    return found


def test_a_card_without_the_size_of_fp32_is_shown(tmp_path):
    """As anybody may publish one."""
    path = tmp_path / f"sample{bundle.BUNDLE_SUFFIX}"
    path.write_bytes(a_bundle(a_manifest(card=msgspec.structs.replace(CARD, baseline_size_bytes=0))))
    done = CliRunner().invoke(inspect, [str(path)], catch_exceptions=False)
    assert "fp32's size is not known" in line(done.stdout.splitlines(), "size of the model")


def test_throughput_and_energy_are_shown(printed):
    """Energy that could not be read is said to be so, with the reason; so is a host that was not quiet."""
    lines = printed(doubts=("other processes kept 1.20 cores busy",))
    assert line(lines, "throughput") == "throughput 311.4 inferences/s, one after another"
    assert line(lines, "energy") == "energy not measured: the RAPL counters can be read by root only"
    assert line(lines, "host") == "host other processes kept 1.20 cores busy"
    joules = printed(energy=Energy(joules_per_inference=0.0213, note="RAPL, 1 whole CPU package(s)"))
    assert line(joules, "energy") == "energy 0.0213 J per inference (RAPL, 1 whole CPU package(s))"
    assert line(joules, "host") == "host quiet"


def test_speed_of_a_text_stands_beside_the_memorys(printed):
    """A token in 3 ms that reads 60 MB takes two thirds of 30 GB/s; above 1 caches helped, and nothing is printed."""
    prefill = Prefill(tokens=256, fp32_ms=400.0, int8_ms=100.0)
    lines = printed(prefill=prefill, memory=MemoryBound(weight_bytes=60_000_000, bytes_per_s=30_000_000_000))
    assert line(lines, "writes") == "writes 333.3 tokens/s, 67% of what this memory allows"
    lines = printed(prefill=prefill, memory=MemoryBound(weight_bytes=60_000_000, bytes_per_s=19_000_000_000))
    assert line(lines, "writes") == "writes 333.3 tokens/s"
    assert line(printed(prefill=prefill), "writes") == "writes 333.3 tokens/s"


def test_inspect_shows_the_kernels(printed):
    """The card's own sentence."""
    assert line(printed(), "kernels a token takes 452").endswith("121 MatMulNBits (100%; 4 bits, fp32 products)")


def test_inspect_shows_why_the_format_ships(printed):
    """The card's own sentence."""
    assert line(printed(), "choice of format") == "choice of format onnx ships: it comes first in the profile"


def test_every_candidate_is_shown_with_why_it_was_left(printed):
    """The one that shipped too, and the speed of those that were timed."""
    lines = printed()
    assert line(lines, "onnx dynamic-s8 ").endswith("+3.00% +2.00% to +4.00% 3.60 x fp32 accuracy drops by 3 %")
    assert line(lines, "onnx dynamic-s8-mixed").endswith("+0.50% -0.10% to +1.10% - passed")


def test_each_cpu_is_shown_with_how_it_is_known(printed):
    """This one's accuracy on all rows, the emulated one's on fewer, and plainly nothing for the third."""
    lines = printed()
    whole = "0.9300 -> 0.9250, drop +0.50% (95 %: -0.10% to +1.10%), 1000 rows"
    assert line(lines, "EPYC") == f"EPYC measured - {whole} golden outputs reproduced"
    assert line(lines, "Haswell").startswith("Haswell emulated 0.999000 0.9300 -> 0.9219")
    assert line(lines, "Cortex-A72") == (
        "Cortex-A72 not measured - not measured not verified on rpi4: run `edgeml target prepare`"
    )


def test_each_class_is_shown_with_what_it_lost(printed):
    """The mean hides that one class lost two points."""
    lines = printed()
    assert line(lines, "urgent") == "urgent 400 90.00% 88.00% +2.00%"
    assert line(lines, "routine") == "routine 600 95.00% 95.50% -0.50%"
