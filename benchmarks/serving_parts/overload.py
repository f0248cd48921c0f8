"""Clients that want four times what a model gives, for a minute; who is refused comes back when it is told to."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeml_agent.serve.worker import QUEUE_MAX
from serving_parts import table
from serving_parts.table import Row
from support import lone_agents, overload
from support.overload import Asked
from support.server_processes import Server, memory_bytes
from support.tiny_models import tiny_onnx_bundle

MODEL: Final = "slow"
#: About 20 ms a run.
ROUNDS: Final = 10_000
TIMES: Final = 4
SECONDS: Final = 60
MEASURE_S: Final = 4
LATENCY_MOST: Final = 3
RSS_MOST: Final = 1.1
ROW: Final = (1.0, 2.0, 3.0, 4.0)


def run(folder: Path, _models: Path) -> Iterator[Row]:
    """The rows."""
    bundle = folder / f"{MODEL}.edgeml"
    tiny_onnx_bundle(bundle, name=MODEL, rounds=ROUNDS)
    with lone_agents.running(folder / "overload", [bundle]) as server:
        yield from asyncio.run(_rows(server))


async def _rows(server: Server) -> list[Row]:
    asked = _asked(server.port)
    alone_s = statistics.median(await overload.unloaded_s(asked, MEASURE_S))
    per_s = await overload.capacity_per_s(asked, MEASURE_S)
    before = memory_bytes(server.pid, "Rss")
    outcome = await overload.overload(asked, wanted_per_s=TIMES * per_s, seconds=SECONDS)
    after = memory_bytes(server.pid, "Rss")
    p99_s = statistics.quantiles(outcome.accepted_s, n=100)[-1]
    refused, told = len(outcome.returned), outcome.told_s
    at_once = sum(returns == 1 for returns in outcome.returned) / max(1, refused)
    what = f"{TIMES} x capacity for {SECONDS} s:"
    return [
        Row(f"{what} unloaded p50, capacity", f"{alone_s * 1000:.1f} ms, {per_s:.0f}/s"),
        Row(f"{what} answered, told to come back", f"{len(outcome.accepted_s)}, {len(told)}"),
        Row(f"{what} told", f"{min(told, default=0)} to {max(told, default=0)} s"),
        table.most(f"{what} other answers", len(outcome.failures), 0),
        table.most(f"{what} p99 / (unloaded p50 x queue)", p99_s / alone_s / QUEUE_MAX, LATENCY_MOST, " x"),
        table.least(f"{what} answered when they first came back", at_once * 100, 100, " %"),
        table.most(f"{what} RSS against before", after / before, RSS_MOST, " x"),
    ]


def _asked(port: int) -> Asked:
    body = {"inputs": [{"name": "x", "shape": [1, len(ROW)], "datatype": "FP32", "data": ROW}]}
    right = [2 * x + 1 for x in ROW]
    return Asked(
        port=port,
        path=f"/v2/models/{MODEL}/infer",
        body=json.dumps(body).encode(),
        is_right=lambda content: json.loads(content)["outputs"][0]["data"] == right,
    )
