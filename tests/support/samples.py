"""Small valid values for the tests of core; made by the code under test where that is possible."""

import io
from pathlib import Path

import msgspec

from edgeml_core import bundle, card, golden, manifest, processing
from edgeml_core.card import Card, Parity

GOLDEN = golden.encode(
    (
        golden.GoldenCase(
            inputs={"x": golden.TensorData(dtype="float32", shape=(1,), data=b"\0\0\0\0")},
            outputs={"y": golden.TensorData(dtype="float32", shape=(1,), data=b"\0\0\0\0")},
        ),
    )
)
LATENCY = card.Latency(p50_ms=2.0, p90_ms=3.0, p99_ms=4.0, runs=10, warmup=1)
FILES = {"golden.msgpack": GOLDEN, "model.onnx": b"graph", "model.weights": bytes(range(256)) * 600}


def a_manifest(**changes):
    """A valid manifest of `FILES`, with `changes`."""
    tensor = manifest.TensorSpec(name="x", dtype="float32", shape=(1,))
    valid = manifest.Manifest(
        format="edgeml/1",
        name="sample",
        version="1.0",
        target="rpi4",
        task="tensors",
        cpu=manifest.CpuNeeds(arch="aarch64", features=("asimd",)),
        runtime=manifest.RuntimeNeeds(engine="onnxruntime", min_version="1.26", threads=4),
        model="model.onnx",
        files=tuple(bundle.describe(path, io.BytesIO(content)) for path, content in sorted(FILES.items())),
        inputs=(tensor,),
        outputs=(msgspec.structs.replace(tensor, name="y"),),
        preprocess=processing.TensorInput(),
        postprocess=processing.TensorOutput(),
        golden=manifest.Golden(path="golden.msgpack", cases=1, min_cosine=0.99, max_abs=0.1),
        needs=manifest.Needs(ram_bytes=1_000_000, disk_bytes=1_000_000),
        card=Card(
            recipe="none",
            size_bytes=1,
            baseline_size_bytes=1,
            parity=Parity(against="pytorch", rows=1, max_abs=0.0, cosine=1.0),
        ),
        provenance=manifest.Provenance(source_sha256="0" * 64, tools={"onnx": "1.23.2"}),
    )
    return msgspec.structs.replace(valid, **changes)


def a_bundle(of=None, files=FILES):
    """The bytes of a bundle of `files`."""
    out = io.BytesIO()
    bundle.write(out, of or a_manifest(), {path: io.BytesIO(content) for path, content in files.items()})
    return out.getvalue()


def a_measurement(path: Path) -> card.Measurements:
    """Measurements of a bundle file."""
    with path.open("rb") as source:
        digest = bundle.BundleReader(source).manifest_sha256
    return card.Measurements(
        manifest_sha256=digest,
        cpu="a cpu",
        threads=1,
        fp32=LATENCY,
        int8=LATENCY,
        load_ms=1.0,
        first_inference_ms=1.0,
        peak_rss_bytes=1,
        throughput_per_s=500.0,
        energy=card.Energy(joules_per_inference=None, note="no counters"),
    )
