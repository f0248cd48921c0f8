"""Overload for seconds, as `benchmarks/serving.py overload` has it for a minute: a real agent, clients that obey."""

import asyncio
import json
import statistics

import pytest

from edgeml_agent.serve.worker import QUEUE_MAX
from support import lone_agents, overload
from support.server_processes import memory_bytes
from support.tiny_models import tiny_onnx_bundle

pytestmark = pytest.mark.timing

TIMES = 4
SECONDS = 4
#: About 10 ms a run.
ROUNDS = 5000
LATENCY_MOST = 3
RSS_MOST = 1.1
#: Of those who came back as they were told. Some are refused again where the machine has become slower meanwhile.
OBEYED_LEAST = 0.9
ROW = [1.0, 2.0, 3.0, 4.0]
BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}]}


def is_right(content):
    """`y = x * 2 + 1`."""
    return json.loads(content)["outputs"][0]["data"] == [3.0, 5.0, 7.0, 9.0]


def test_four_times_its_capacity_is_refused_in_order(tmp_path):
    """Answers in bounded time or 429, nothing else; whoever comes back as told is answered; memory stays."""
    bundle = tmp_path / "slow.edgeml"
    tiny_onnx_bundle(bundle, name="slow", rounds=ROUNDS)

    async def use(asked, pid):
        alone_s = statistics.median(await overload.unloaded_s(asked, 1.0))
        per_s = await overload.capacity_per_s(asked, 1.0)
        before = memory_bytes(pid, "Rss")
        outcome = await overload.overload(asked, wanted_per_s=TIMES * per_s, seconds=SECONDS)
        return alone_s, outcome, memory_bytes(pid, "Rss") / before

    with lone_agents.running(tmp_path, [bundle]) as server:
        asked = overload.Asked(
            port=server.port, path="/v2/models/slow/infer", body=json.dumps(BODY).encode(), is_right=is_right
        )
        alone_s, outcome, grown = asyncio.run(use(asked, server.pid))
    assert outcome.failures == []
    assert len(outcome.told_s) > len(outcome.accepted_s) / 10
    assert statistics.quantiles(outcome.accepted_s, n=100)[-1] <= LATENCY_MOST * alone_s * QUEUE_MAX
    assert statistics.mean(returns == 1 for returns in outcome.returned) >= OBEYED_LEAST
    assert grown <= RSS_MOST
