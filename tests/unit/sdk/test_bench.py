"""`edgeml bench`: its figures, its doubts about the host, and its refusals."""

import json

import pytest
from click.testing import CliRunner

from edgeml.bench import measure
from edgeml.cli.bench import bench
from edgeml_core.calls import Timing
from edgeml_core.errors import UsageError
from support.tiny_models import tiny_onnx_bundle


@pytest.fixture
def bundle(tmp_path):
    """A real bundle of a linear model."""
    path = tmp_path / "tiny.edgeml"
    tiny_onnx_bundle(path)
    return path


def test_measure_has_every_figure_and_its_origin(bundle):
    """Percentiles in order, a time for loading, memory of a whole process, the input that was run."""
    found = measure(bundle, timing=Timing(seconds=0.05))
    result = found.result
    assert 0 < result.latency.p50_ms <= result.latency.p90_ms <= result.latency.p99_ms
    assert result.latency.runs >= 30
    assert result.load_ms > 0 < result.first_inference_ms
    assert 0 < result.throughput_per_s <= 2 * 1000 / result.latency.p50_ms  # half of the runs take the median or longer
    assert 20e6 < result.peak_rss_bytes < 500e6
    assert (found.input_shapes, found.threads, found.engine) == ({"x": (2, 4)}, 1, "onnxruntime")


def test_bench_json_has_the_documented_keys(bundle):
    """One object; its first level is the one documented."""
    done = CliRunner().invoke(bench, [str(bundle), "--seconds", "0.05", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {key for key in found if key not in (bench.help or "")} == set()
    assert set(found["latency"]) == {"p50_ms", "p90_ms", "p99_ms", "runs", "warmup"}
    assert set(found["host"]) == {"quiet", "other_cores", "steal", "drift", "spread", "doubts"}
    assert found["host"]["quiet"] is (found["host"]["doubts"] == [])
    assert found["energy"]["note"]


def test_bench_text_is_a_table_with_the_doubts(bundle):
    """The figures on stdout; where the host wasn't quiet, each reason on stderr."""
    done = CliRunner().invoke(bench, [str(bundle), "--seconds", "0.05"])
    assert "latency p50/p90/p99" in done.stdout
    assert ("NOT quiet" in done.stdout) is ("the host was not quiet: " in done.stderr)


def test_measure_emulated_is_a_usage_error(bundle):
    """Emulated time is not speed."""
    with pytest.raises(UsageError, match="an emulator's time is no measure"):
        measure(bundle, "emulated", timing=Timing())


def test_measure_golden_case_that_does_not_exist_is_a_usage_error(bundle):
    """Golden cases count from 1."""
    with pytest.raises(UsageError, match="no golden case 2"):
        measure(bundle, timing=Timing(case=2))


@pytest.mark.parametrize("asked", [["--case", "0"], ["--seconds", "0"], ["--seconds", "1e9"], ["--threads", "0"]])
def test_bench_option_out_of_range_is_a_usage_error(bundle, asked):
    """Zero runs, zero time and endless time are refused."""
    assert CliRunner().invoke(bench, [str(bundle), *asked]).exit_code == UsageError.exit_code
