"""The page of a bundle: complete, well-formed, and safe with any text in a bundle."""

from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from edgeml.bundles import Bundle
from edgeml.cli.inspect import inspect
from edgeml.report import page
from edgeml.report.page import visible
from edgeml_core.card import (
    Accuracy,
    CandidateTimes,
    Card,
    ClassAccuracy,
    Energy,
    Latency,
    Measurements,
    Parity,
    TargetVerification,
    Tried,
    Verified,
)
from support.samples import a_bundle, a_manifest

HOSTILE = "<script>alert('1')</script>\"'&amp;{{ 7 * 7 }}\u202e"
VOID = {"meta", "br", "link", "img", "input", "hr"}


def a_card(**changes):
    """A card with something in every place; `changes` replace some."""
    accuracy = Accuracy(
        metric="accuracy",
        rows=913,
        fp32=0.9317,
        int8=0.9289,
        drop=0.0028,
        ci95=(-0.0011, 0.0067),
        classes=(
            ClassAccuracy(label="stop", rows=411, fp32=0.953, int8=0.957),
            ClassAccuracy(label=HOSTILE, rows=502, fp32=0.914, int8=0.903),
        ),
    )
    valid = Card(
        recipe="dynamic-s8",
        size_bytes=23_456_789,
        baseline_size_bytes=91_234_567,
        parity=Parity(against="PyTorch", rows=84, max_abs=0.0421, cosine=0.99613),
        accuracy=accuracy,
        calibration_rows=128,
        calibration_sha256="c" * 64,
        tried=(
            Tried(format="onnx", recipe="static-s8", why=f"drop 9 % {HOSTILE}", size_bytes=22_111_000, drop=0.0912),
            Tried(
                format="onnx", recipe="dynamic-s8", ram_bytes=87_654_321, cosine=0.9961, drop=0.0028, ci95=(0, 0.007)
            ),
            Tried(format="tflite", recipe="dynamic", why="never got so far"),
        ),
        verified=(
            TargetVerification(
                cpu="cortex-a72", how="emulated", min_cosine=0.999871, max_abs=0.00312, accuracy=accuracy
            ),
            TargetVerification(cpu="haswell", how="not measured", note="run `edgeml target prepare`"),
        ),
        warnings=("texts are cut at 128 tokens", HOSTILE),
        choice="onnx ships, by evidence for Cortex-A72",
    )
    return msgspec.structs.replace(valid, **changes)


def measured():
    """Measurements with candidates."""
    return Measurements(
        manifest_sha256="a" * 64,
        cpu=f"CPU {HOSTILE}",
        threads=2,
        fp32=Latency(p50_ms=9.017, p90_ms=9.914, p99_ms=12.31, runs=166, warmup=5),
        int8=Latency(p50_ms=3.042, p90_ms=3.377, p99_ms=4.118, runs=166, warmup=5),
        load_ms=69.4,
        first_inference_ms=5.512,
        peak_rss_bytes=85_012_480,
        throughput_per_s=311.4,
        energy=Energy(joules_per_inference=0.0213, note="RAPL"),
        verified_on=(Verified(cpu="Icelake", how="measured", ok=True),),
        candidates=(
            CandidateTimes(format="onnx", recipe="static-s8", fp32_ms=9.03, int8_ms=2.71),
            CandidateTimes(format="onnx", recipe="dynamic-s8", fp32_ms=9.017, int8_ms=3.042),
        ),
    )


def found(card=None, measurements=None):
    manifest = a_manifest(card=card or a_card())
    made = Bundle(path=Path("sample.edgeml"), manifest=manifest, manifest_sha256="a" * 64, size_bytes=99)
    vars(made)["measurements"] = measurements  # as if they had been read from the file beside it
    return made


class Reader(HTMLParser):
    """Reads a page strictly: every tag closed in its order. Keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], set(), [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        """Opened."""
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Closed, the last one opened first."""
        assert self.open.pop() == tag

    def handle_data(self, text):
        """Text, but for the style."""
        if self.open and self.open[-1] != "style":
            self.texts.append(text)


def leaves(value):
    """Every figure and word in nested values."""
    if isinstance(value, dict | list | tuple):
        for below in value.values() if isinstance(value, dict) else value:
            yield from leaves(below)
    elif value is not None:
        yield str(value)


CASES = {
    "full": found(measurements=measured()),
    "unmeasured": found(),
    "bare": found(a_manifest().card),
    "nothing to compare": found(a_card(tried=(), verified=(), baseline_size_bytes=0), measured()),
    "many classes": found(
        a_card(
            accuracy=msgspec.structs.replace(
                a_card().accuracy,
                classes=tuple(
                    ClassAccuracy(label=f"class {n}", rows=n, fp32=1.0, int8=1 - n / 999) for n in range(1, 999)
                ),
            )
        ),
        measured(),
    ),
    "cosines only": found(a_card(tried=(Tried(format="onnx", recipe="dynamic-s8", cosine=0.99),)), measured()),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_render_has_every_figure_of_card_and_measurements(case):
    """As it is in the card, not only rounded for a table."""
    texts = set(Reader(page.render(case)).texts)
    wanted = set(leaves(msgspec.to_builtins([case.manifest.card, case.measurements]))) - {""}
    assert set(map(visible, wanted)) - texts == set()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_render_is_one_file_without_scripts(case):
    """The browser fetches and runs nothing, and the page's policy forbids it to."""
    read = Reader(page.render(case))
    assert read.tags.isdisjoint({"script", "link", "img", "iframe", "object", "form", "a"})
    assert {name for name, _ in read.attributes}.isdisjoint({"src", "href", "xlink:href", "style"})
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert "url(" not in page.render(case)
    assert any(name == "content" and value.startswith("default-src 'none'") for name, value in read.attributes)


def test_render_text_from_the_bundle_is_escaped():
    """A label, a reason, a CPU's name: text, wherever they stand."""
    text = page.render(CASES["full"])
    assert "<script>" not in text
    assert "\u202e" not in text  # it would turn all that follows around
    assert HOSTILE.replace("\u202e", "\\u202e") in "".join(Reader(text).texts)


def test_render_names_the_recipe_that_ships():
    """The latency bar of a model with 16-bit weights was called int8."""
    text = page.render(found(a_card(recipe="weight-only-fp16"), measured()))
    assert ">weight-only-fp16<" in text
    assert ">int8<" not in text


def test_render_has_a_plot_for_each_measurement():
    """Latency, size, classes, candidates; no plot without figures."""
    plots = {name: page.render(case).count("<svg") for name, case in CASES.items()}
    assert plots == {
        "full": 4,
        "unmeasured": 2,
        "bare": 1,
        "nothing to compare": 3,
        "many classes": 4,
        "cosines only": 4,
    }


def test_render_missing_measurements_are_named():
    """No speed without measurements, no accuracy without labels."""
    assert page.render(CASES["bare"]).count("not measured") >= 2


def test_inspect_html_writes_the_page(tmp_path):
    """Besides the printed tables; a file that can't be written is a usage error."""
    bundle = tmp_path / "sample-1.0-rpi4-onnx.edgeml"
    bundle.write_bytes(a_bundle())
    done = CliRunner().invoke(inspect, [str(bundle), "--html", str(tmp_path / "page.html")])
    assert (done.exit_code, "wrote" in done.stderr, "parity" in done.stdout) == (0, True, True)
    assert "sample 1.0" in "".join(Reader((tmp_path / "page.html").read_text()).texts)
    assert "can't be written" in str(CliRunner().invoke(inspect, [str(bundle), "--html", str(tmp_path)]).exception)
