"""Load from outside: wrk, and a client in Python that returns each answer for a check.

wrk (`apt-get install wrk`) keeps its connections alive and sends the next request on each when the last is answered.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

JSON_TYPE: Final = {"Content-Type": "application/json"}
#: Seconds until an answer counts as missing: the slowest rival under full load takes a tenth of it.
ANSWER_MAX_S: Final = 60
_SCRIPT: Final = """
local file = assert(io.open([==[{body}]==], "rb"))
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
{headers}
function done(summary, latency)
  local errors, form = summary.errors, '{{"requests": %d, "duration_us": %d, "bad": %d, "p50_us": %d, "p99_us": %d}}'
  local bad = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  io.stderr:write(string.format(form, summary.requests, summary.duration, bad, p50, p99))
end
"""


@dataclass(frozen=True)
class Request:
    """One POST request."""

    path: str
    body: str | bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_TYPE)


class Load(NamedTuple):
    """The result of one run of wrk; every answer was 200."""

    p50_ms: float
    p99_ms: float
    per_s: float
    requests: int


def check_wrk() -> None:
    """Raise RuntimeError where wrk is missing."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is missing; install it: apt-get install wrk")


def started(port: int, request: Request, folder: Path, *, connections: int, seconds: float) -> subprocess.Popen[str]:
    """Start wrk; its script and body are written to `folder`. It runs for whole seconds, at least one."""
    script, body = folder / "wrk.lua", folder / "wrk.body"
    body.write_bytes(request.body.encode() if isinstance(request.body, str) else request.body)
    headers = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(it)}" for name, it in request.headers.items())
    script.write_text(_SCRIPT.format(body=body, headers=headers))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s", str(script)]
    url = f"http://127.0.0.1:{port}{request.path}"
    return subprocess.Popen([*command, url], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(wrk: subprocess.Popen[str]) -> Load:
    """Wait for wrk's end and return its result.

    Raises:
        RuntimeError: an answer was not 200, or a connection broke.
    """
    _, printed = wrk.communicate()
    found = json.loads(printed)
    if found["bad"] or not found["requests"]:
        raise RuntimeError(f"not all requests were answered: {printed}")
    per_s = found["requests"] / found["duration_us"] * 1e6
    return Load(found["p50_us"] / 1e3, found["p99_us"] / 1e3, per_s, found["requests"])


def run(port: int, request: Request, folder: Path, *, connections: int, seconds: float) -> Load:
    """Run wrk to its end."""
    return ended(started(port, request, folder, connections=connections, seconds=seconds))


def answer(port: int, request: Request) -> bytes:
    """Return one answer, on a connection of its own.

    Raises:
        RuntimeError: it wasn't 200.
    """
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_MAX_S)
    try:
        return answer_on(link, request)
    finally:
        link.close()


def answer_on(link: http.client.HTTPConnection, request: Request) -> bytes:
    """Return one answer, on a connection that stays open.

    Raises:
        RuntimeError: it wasn't 200.
    """
    link.request("POST", request.path, request.body, dict(request.headers))
    response = link.getresponse()
    content = response.read()
    if response.status != http.client.OK:
        raise RuntimeError(f"{response.status}: {content[:500]!r}")
    return content


def latencies_ms(port: int, request: Request, count: int) -> list[float]:
    """Return the times of `count` inferences on one connection; the first tenth is the warm-up and is left out."""
    link, times_ms = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(count):
        begun_s = time.perf_counter()
        answer_on(link, request)
        times_ms.append((time.perf_counter() - begun_s) * 1000)
    link.close()
    return times_ms[count // 10 :]
