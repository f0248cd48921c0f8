"""Clients that disconnect: how soon their requests leave the queue, and how soon a language model stops for them."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from edgeml import targets
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from harness import host
from harness.figures import Figure, Run, most
from support import lone_agents, tiny_chat
from support.tiny_models import tiny_onnx_bundle

SLOW: Final = "slow"
CHAT: Final = "chat"
#: Rounds of the slow model's loop, about 0.5 s a run: no request leaves the queue because its turn has come.
LOOP_ROUNDS: Final = 300_000
CLIENTS: Final = 10
#: Measurements, full and quick; the worst counts.
REPEATS: Final = 5
QUICK_REPEATS: Final = 1
#: Tokens that the client of a stream requests, and those that it reads before it disconnects.
TOKENS: Final = 200
READ_TOKENS: Final = 3
AIM: Final = most(100)
#: Seconds without a new token after which a model counts as stopped.
SETTLED_S: Final = 0.5
WAIT_MAX_S: Final = 30


def figures(run: Run) -> Iterator[Figure]:
    """Yield the worst times."""
    slow, repeats = run.folder / f"{SLOW}-disconnects.edgeml", run.size(REPEATS, QUICK_REPEATS)
    tiny_onnx_bundle(slow, name=SLOW, rounds=LOOP_ROUNDS)
    with lone_agents.running(run.folder / "disconnects", [slow, _chat(run.models)]) as server:
        with host.watching() as watch:
            left_ms = max(_left_ms(server.port) for _ in range(repeats))
        yield Figure(
            name=f"{CLIENTS} clients disconnect: their requests have left the queue after",
            value=left_ms,
            unit="ms",
            host=watch.load,
            aim=AIM,
        )
        with host.watching() as watch:
            streams = [_stopped(server.port) for _ in range(repeats)]
    written, last_ms = (max(it) for it in zip(*streams, strict=True))
    yield Figure(
        name="the client of a stream disconnects: the last token comes after",
        value=last_ms,
        unit="ms",
        host=watch.load,
        aim=AIM,
        note=f"{written:.0f} of {TOKENS} tokens were written",
    )


def _left_ms(port: int) -> float:
    """Queue requests behind one that runs, disconnect all that wait, and time until the queue is empty."""
    body = json.dumps({"inputs": {"x": [[1, 2, 3, 4]]}})
    running = _connected(port, f"/v1/models/{SLOW}/predict", body)
    _await(port, "edgeml_queue_depth", SLOW, lambda depth: depth >= 1)
    waiting = [_connected(port, f"/v1/models/{SLOW}/predict", body) for _ in range(CLIENTS)]
    # On a busy machine the first may have ended before the last one's arrival is seen.
    _await(port, "edgeml_queue_depth", SLOW, lambda depth: depth >= CLIENTS)
    for client in waiting:
        client.close()
    closed_s = time.perf_counter()
    _await(port, "edgeml_queue_depth", SLOW, lambda depth: depth <= 1)
    left_ms = (time.perf_counter() - closed_s) * 1000
    running.recv(1)
    running.close()
    return left_ms


def _stopped(port: int) -> tuple[float, float]:
    """Disconnect from a stream after a few tokens.

    Returns:
        The tokens that the model wrote in all, and the ms from the disconnect to the last one.
    """
    before = _metric(port, "edgeml_generated_tokens_total", CHAT)
    body = {"model": CHAT, "prompt": "The", "max_tokens": TOKENS, "temperature": 1.5, "stream": True}
    client = _connected(port, "/v1/completions", json.dumps(body))
    received = b""
    while received.count(b"data: ") < READ_TOKENS:
        received += client.recv(4096)
    client.close()
    closed_s = last_s = time.perf_counter()
    count = before
    while time.perf_counter() < last_s + SETTLED_S:
        if (found := _metric(port, "edgeml_generated_tokens_total", CHAT)) != count:
            count, last_s = found, time.perf_counter()
    return count - before, (last_s - closed_s) * 1000


def _connected(port: int, path: str, body: str) -> socket.socket:
    """Send a request on a connection of its own, and read nothing."""
    client = socket.create_connection(("127.0.0.1", port), timeout=WAIT_MAX_S)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return client


def _await(port: int, metric: str, model: str, holds: Callable[[float], bool]) -> None:
    until_s = time.monotonic() + WAIT_MAX_S
    while not holds(_metric(port, metric, model)):
        if time.monotonic() > until_s:
            raise RuntimeError(f"{metric} of {model!r} has not changed within {WAIT_MAX_S} s")


def _metric(port: int, name: str, model: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_MAX_S) as page:
        found = re.findall(rf'^{name}\{{model="{model}"\}} (\S+)', page.read().decode(), re.MULTILINE)
    return float(found[0])


def _chat(models: Path) -> Path:
    """Export a tiny language model, unless `models` has it."""
    if not list(models.glob(f"{CHAT}-*.edgeml")):
        target = targets.this_machine().name
        model = tiny_chat.pretrained(models / CHAT)
        export(
            ExportRequest(model=model, targets=(target,), formats=("onnx",), quantize="none", name=CHAT, output=models)
        )
    return next(models.glob(f"{CHAT}-*.edgeml"))
