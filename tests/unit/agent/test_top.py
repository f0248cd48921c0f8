"""What `edgeml-agent top` makes of two looks at the agent's own pages."""

import pytest

from edgeml_agent.commands import top
from edgeml_agent.commands.scrape import Model, Snapshot, parse
from edgeml_agent.serve.metrics import Metric, RequestCounts, render

MODEL = Model(id="mood", version="1.1", task="text-classification")


def look(at_s, counts, depth=0):
    """A look at a real page with these counts."""
    page = render(
        iter(
            [
                Metric("edgeml_agent_info", "gauge", "The agent.", (("", {"device": 'd"7\\', "version": "0.5"}, 1),)),
                Metric("edgeml_queue_depth", "gauge", "Waiting.", (("", {"model": "mood"}, depth),)),
                Metric("edgeml_requests_total", "counter", "Requests.", tuple(counts.totals())),
                Metric("edgeml_request_duration_seconds", "histogram", "Seconds.", tuple(counts.latencies())),
                Metric("edgeml_generated_tokens_total", "counter", "Tokens.", (("", {"model": "mood"}, 10 * at_s),)),
                Metric("edgeml_cpu_temperature_celsius", "gauge", "Heat.", (("", {}, 61.5),)),
                Metric("edgeml_cpu_throttled", "gauge", "Slowed.", (("", {}, int(at_s > 13)),)),
                Metric("process_resident_memory_bytes", "gauge", "Memory.", (("", {}, 70 * 1024**2),)),
            ]
        )
    )
    return Snapshot(at_s=at_s, models=(MODEL,), samples=tuple(parse(page)))


def counted(*requests):
    """Counts of requests, (outcome, seconds) each."""
    counts = RequestCounts()
    for code, duration_s in requests:
        counts.add("mood", code, duration_s)
    return counts


def test_rates_and_quantiles_are_of_the_time_between_two_looks():
    """What was before the first doesn't count; quantiles are where Prometheus would put them."""
    before, between = [("ok", 9.0)] * 50, [("ok", 0.02)] * 97 + [("overloaded", 0.3)] * 3
    frame = top.between(look(10.0, counted(*before)), look(14.0, counted(*before, *between), depth=2))
    assert (frame.device, frame.version, frame.seconds, frame.resident_bytes) == ('d"7\\', "0.5", 4.0, 70 * 1024**2)
    (model,) = frame.models
    assert (model.requests_per_s, model.failed_per_s, model.waiting) == (25.0, 0.75, 2)
    assert (model.tokens_per_s, frame.cpu_celsius, frame.cpu_throttled) == (10.0, 61.5, True)
    assert model.p50_ms == pytest.approx(10 + 15 * 50 / 97, abs=0.01)
    assert model.p99_ms == pytest.approx(250 + 250 * 2 / 3, abs=0.01)


def test_an_idle_model_has_no_quantiles():
    """And nothing is divided by nothing."""
    (model,) = top.between(look(0.0, counted(("ok", 1.0))), look(1.0, counted(("ok", 1.0)))).models
    assert (model.requests_per_s, model.p50_ms, model.p99_ms) == (0.0, None, None)


def test_top_after_a_restart_counts_from_zero():
    """Its counters are lower than before; no rate is negative."""
    (model,) = top.between(look(0.0, counted(*[("ok", 1.0)] * 9)), look(1.0, counted(("ok", 99.0)))).models
    assert (model.requests_per_s, model.failed_per_s) == (0.0, 0.0)
    assert model.p50_ms == 10_000


def test_a_frame_is_a_table():
    """Words to the left, figures to the right, one line a model."""
    frame = top.between(look(0.0, counted()), look(1.0, counted(("ok", 0.02))))
    first, empty, heads, row = top.lines(frame)
    assert (first, empty) == ('d"7\\  edgeml-agent 0.5  70 MiB resident  CPU 62 °C', "")
    assert heads.split()[:4] == ["MODEL", "VERSION", "TASK", "REQ/S"]
    assert row.split() == ["mood", "1.1", "text-classification", "1.0", "0.0", "10.0", "17.5", "24.9", "0"]
    assert heads.index("REQ/S") + len("REQ/S") == row.index("1.0 ", row.index("classification")) + len("1.0")
