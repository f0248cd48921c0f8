"""Clients that leave: how soon their requests are out of the queue, and how long a language model goes on writing."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeml import targets
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from serving_parts import table
from serving_parts.table import Row
from support import lone_agents, tiny_chat
from support.tiny_models import tiny_onnx_bundle

SLOW: Final = "slow"
CHAT: Final = "chat"
#: About 0.5 s a run: nobody is out of the queue as its turn has come.
ROUNDS: Final = 300_000
LEAVERS: Final = 10
TRIALS: Final = 5
TOKENS: Final = 200
READ_TOKENS: Final = 3
GONE_MOST_MS: Final = 100
SETTLED_S: Final = 0.5
WAIT_MAX_S: Final = 30


def run(folder: Path, models: Path) -> Iterator[Row]:
    """The rows; each is the worst of the trials."""
    slow = folder / f"{SLOW}-to-leave.edgeml"
    tiny_onnx_bundle(slow, name=SLOW, rounds=ROUNDS)
    with lone_agents.running(folder / "leaving", [slow, _chat(models)]) as server:
        gone_ms = max(_gone_ms(server.port) for _ in range(TRIALS))
        trials = [_written(server.port) for _ in range(TRIALS)]
    written, last_ms = (max(it) for it in zip(*trials, strict=True))
    yield table.most(f"{LEAVERS} clients left: gone from the queue after", gone_ms, GONE_MOST_MS, " ms")
    yield table.most("the client of a stream left: the last token after", last_ms, GONE_MOST_MS, " ms")
    yield Row(f"the client of a stream left: tokens written, of {TOKENS}", f"{written:.0f}")


def _gone_ms(port: int) -> float:
    """Who runs stays; all behind it leave at once."""
    body = json.dumps({"inputs": {"x": [[1, 2, 3, 4]]}})
    clients = []
    for number in range(1 + LEAVERS):
        clients.append(_asked(port, f"/v1/models/{SLOW}/predict", body))
        _until(port, "edgeml_queue_depth", SLOW, lambda depth, least=number + 1: depth >= least)
    for client in clients[1:]:
        client.close()
    left_s = time.perf_counter()
    _until(port, "edgeml_queue_depth", SLOW, lambda depth: depth <= 1)
    gone_ms = (time.perf_counter() - left_s) * 1000
    clients[0].recv(1)
    clients[0].close()
    return gone_ms


def _written(port: int) -> tuple[float, float]:
    """How many tokens were written for a client that read a few, and in ms, how long after it left the last one."""
    before = _metric(port, "edgeml_generated_tokens_total", CHAT)
    body = {"model": CHAT, "prompt": "The", "max_tokens": TOKENS, "temperature": 1.5, "stream": True}
    client = _asked(port, "/v1/completions", json.dumps(body))
    heard = b""
    while heard.count(b"data: ") < READ_TOKENS:
        heard += client.recv(4096)
    client.close()
    left_s = last_s = time.perf_counter()
    count = before
    while time.perf_counter() < last_s + SETTLED_S:
        if (found := _metric(port, "edgeml_generated_tokens_total", CHAT)) != count:
            count, last_s = found, time.perf_counter()
    return count - before, (last_s - left_s) * 1000


def _asked(port: int, path: str, body: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=WAIT_MAX_S)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return client


def _until(port: int, metric: str, model: str, holds) -> None:  # noqa: ANN001 - a predicate of a number
    until_s = time.monotonic() + WAIT_MAX_S
    while not holds(_metric(port, metric, model)):
        if time.monotonic() > until_s:
            raise RuntimeError(f"{metric} of {model!r} stays as it is")


def _metric(port: int, name: str, model: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_MAX_S) as page:
        found = re.findall(rf'^{name}\{{model="{model}"\}} (\S+)', page.read().decode(), re.MULTILINE)
    return float(found[0])


def _chat(models: Path) -> Path:
    """A tiny language model's bundle; the one in `models`, if there is one."""
    if not list(models.glob(f"{CHAT}-*.edgeml")):
        target = targets.this_machine().name
        model = tiny_chat.pretrained(models / CHAT)
        export.export(
            ExportRequest(model=model, targets=(target,), formats=("onnx",), quantize="none", name=CHAT, output=models)
        )
    return next(models.glob(f"{CHAT}-*.edgeml"))
