"""The gate's latencies: two models in turns, in a child process."""

import msgspec
import numpy as np
import pytest

from edgeml.check import latency, latency_child
from edgeml_core.errors import DeviceError
from edgeml_runtime.bench import memory_bandwidth
from edgeml_runtime.unpack import unpacked
from support.tiny_models import tiny_onnx_bundle


@pytest.fixture
def model(tmp_path):
    """A real linear model, ready to be timed."""
    tiny_onnx_bundle(tmp_path / "tiny.edgeml")
    with unpacked(tmp_path / "tiny.edgeml") as opened:
        inputs = {"x": np.ones((2, 4), np.float32)}
        yield latency.timed(opened.folder / opened.manifest.model, opened.manifest, inputs)


def test_measure_two_models_gives_the_times_of_both(model):
    """Percentiles in order for each, and what the first one cost to load."""
    times = latency.measure(latency.Job(int8=model, fp32=model, threads=1, budget_s=0.05))
    for found in (times.int8, times.fp32):
        assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms
        assert found.runs >= 30
    assert times.load_ms > 0
    assert times.peak_rss_bytes > 20e6


def test_measure_model_that_cannot_be_loaded_is_runtime_failed(model):
    """The error of the runtime in the child is the message here, without a traceback."""
    absent = msgspec.structs.replace(model, path=f"{model.path}.absent")
    with pytest.raises(DeviceError, match="timing the model failed") as caught:
        latency.measure(latency.Job(int8=absent, fp32=model, threads=1, budget_s=0.05))
    assert caught.value.code == "runtime-failed"
    assert "absent" in caught.value.message
    assert "Traceback" not in caught.value.message


def test_measure_child_that_hangs_is_runtime_failed(model, monkeypatch):
    """A bound on time ends a model that hangs."""
    monkeypatch.setattr(latency, "TIMEOUT_S", 0.01)
    with pytest.raises(DeviceError, match="gave no answer") as caught:
        latency.measure(latency.Job(int8=model, fp32=model, threads=1, budget_s=0.05))
    assert caught.value.code == "runtime-failed"


def test_measure_memory_where_caches_hold_little(model, monkeypatch):
    """A cache of 64 KiB, and weights of 1 MB; weights within two caches, and those of other models, are not timed."""
    monkeypatch.setattr(memory_bandwidth, "cache_bytes", lambda: 65536)
    job = latency.Job(int8=model, fp32=model, threads=1, budget_s=0.01, weight_bytes=1_000_000)
    found = latency_child.measure(job).memory
    assert found
    assert found.weight_bytes == 1_000_000
    assert found.bytes_per_s > 1e7
    for weight_bytes in (0, 131_071):
        assert latency_child.measure(msgspec.structs.replace(job, weight_bytes=weight_bytes)).memory is None
