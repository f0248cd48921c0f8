"""`GET /metrics`: all counts in Prometheus' text format.

Names end in their unit, counters in `_total`; readers compute rates.
Source: https://prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from starlette.responses import Response

from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_agent.serve import metrics
from edgeml_agent.serve.metrics import Metric
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import QUEUE_MAX
from edgeml_agent.system import memory, thermal
from edgeml_core.processing import PromptInput

#: Yields the current metrics of the rest of the agent.
Further = Callable[[], Iterator[Metric]]


def endpoints(models: Models, info: ServerInfo, further: Further) -> dict[str, Endpoint]:
    """The endpoint of metrics."""

    def everything() -> Iterator[Metric]:
        yield from _models(models, info)
        yield from models.watches.metrics(models.active())
        yield from further()
        yield from _process_and_board()

    async def scrape(_: Request) -> Response:
        return Response(metrics.render(everything()), media_type=metrics.CONTENT_TYPE)

    return {"metrics": scrape}


def _models(models: Models, info: ServerInfo) -> Iterator[Metric]:
    live, counts = models.active().items(), models.counts
    agent = {"device": info.device, "version": info.version}
    yield Metric("edgeml_agent_info", "gauge", "The agent; always 1.", (("", agent, 1),))
    versions = tuple(
        ("", {"model": name, "version": m.manifest.version, "target": m.manifest.target, "deployment": m.deployment}, 1)
        for name, m in live
    )
    yield Metric("edgeml_model_info", "gauge", "The version that answers; always 1.", versions)
    depths = tuple(("", {"model": name}, m.queue_depth) for name, m in live)
    yield Metric("edgeml_queue_depth", "gauge", "Requests accepted and not yet answered.", depths)
    yield Metric("edgeml_queue_limit", "gauge", "Requests of one model that are accepted.", (("", {}, QUEUE_MAX),))
    waits = "Time from the acceptance of a request to the start of its run."
    yield Metric("edgeml_queue_wait_seconds", "histogram", waits, tuple(counts.waits()))
    yield Metric("edgeml_requests_total", "counter", "Requests by outcome.", tuple(counts.totals()))
    seconds = "Time from the arrival of a request to its answer, waiting included."
    yield Metric("edgeml_request_duration_seconds", "histogram", seconds, tuple(counts.latencies()))
    tokens = tuple(
        ("", {"model": name}, counts.tokens(name)) for name, m in live if isinstance(m.manifest.preprocess, PromptInput)
    )
    compared = tuple(
        ("", {"model": name, "outcome": outcome}, count)
        for name, m in live
        for outcome, count in (m.shadow.outcomes() if m.shadow else {}).items()
    )
    yield Metric("edgeml_shadow_compared_items", "gauge", "Answers of a new version, compared.", compared)
    yield Metric("edgeml_generated_tokens_total", "counter", "Tokens written by language models.", tokens)


def _process_and_board() -> Iterator[Metric]:
    """Yield the metrics of this process, and those that the board offers."""
    yield _single("process_cpu_seconds_total", "counter", "CPU time, user and system.", time.process_time())
    if (resident := memory.resident_bytes()) is not None:
        yield _single("process_resident_memory_bytes", "gauge", "Resident memory.", resident)
    if (heat := thermal.celsius()) is not None:
        yield _single("edgeml_cpu_temperature_celsius", "gauge", "The hottest thermal zone of the CPU.", heat)
    if (is_throttled := thermal.is_throttled()) is not None:
        yield _single(
            "edgeml_cpu_throttled", "gauge", "1 while the CPU is slowed for heat or power.", int(is_throttled)
        )
    if (throttle_count := thermal.throttle_count()) is not None:
        yield _single(
            "edgeml_cpu_throttles_total", "counter", "Times that CPU cores were slowed for heat.", throttle_count
        )


def _single(name: str, kind: str, text: str, value: float) -> Metric:
    return Metric(name, kind, text, (("", {}, value),))
