"""The server of a fuzz run, seen from outside: asked, counted, and held to what must be so whatever it was asked."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fuzz import campaign, served
from fuzz.campaign import Size
from fuzz.request import AUTHORIZATION, Request
from support import task_models

#: No answer may take longer: six tests beside this one on two cores made one of 6 s of what takes 1 s alone.
ANSWER_MAX_S: Final = 60.0
#: A server may end a connection that has been idle for longer.
IDLE_MAX_S: Final = 2.0
#: What the server may need more after all inputs than after it was warmed up.
GROWTH_MAX_BYTES: Final = 32 * 1024**2
#: Threads for long bodies come when they are needed, and stay; connections of who left by chance are closed later.
THREADS_GROWTH_MAX: Final = 8
FILES_GROWTH_MAX: Final = 8
#: What is the server's own fault: statuses but those for models that are being loaded and a passed deadline, and codes.
FAILURES: Final = frozenset({*range(500, 600), "internal", "runtime-failed", "bundle-format"} - {503, 504})
START_MAX_S: Final = 60.0
#: By their tasks: `task_models.NAMES`, a model of tensors and one that chats.
MODELS: Final = (*task_models.NAMES.values(), "line", "nurse")
RIGHT: Final = ("/v1/models/line/predict", {"inputs": {"x": [[1, 2, 3, 4]]}}, [[3, 5, 7, 9]])


@dataclass
class Site:
    """A running server; `broker` is the address of the one that its MQTT door is on."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    broker: str
    _line: http.client.HTTPConnection = field(init=False)
    _used_s: float = 0.0

    def __post_init__(self) -> None:
        self.address = self.url.removeprefix("http://")
        self._line = http.client.HTTPConnection(self.address, timeout=2 * ANSWER_MAX_S)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = AUTHORIZATION
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request and its answer, on a connection that is kept, unless it has been idle."""
        if time.monotonic() - self._used_s > IDLE_MAX_S:
            self._line.close()
        self._line.request(method, path, body, dict(headers))
        response = self._line.getresponse()
        body = response.read()
        self._used_s = time.monotonic()
        return response.status, dict(response.getheaders()), body

    def counted(self, part: str, it: Request) -> None:
        """Ask one fuzzed request, which may be refused but not fail."""
        it, begun_s = it.sent(), time.perf_counter()
        try:
            status, _, _ = self.ask(it.method, it.path, it.body, it.headers)
        except (OSError, http.client.HTTPException) as error:
            self._line.close()
            raise AssertionError(f"{it.method} {it.path}: no answer") from error
        hold_answer(part, status, time.perf_counter() - begun_s, f"{it.method} {it.path}")

    def load_all(self) -> None:
        """Every model is loaded, whoever unloaded it."""
        for name in MODELS:
            assert self.ask("POST", f"/v2/repository/models/{name}/load")[0] == 200

    def size(self) -> Size:
        """What the server's process has, now."""
        process = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return Size(
            resident_bytes=int(status["VmRSS"].split()[0]) * 1024,
            threads=int(status["Threads"]),
            files=len(list((process / "fd").iterdir())),
        )

    def hold(self) -> None:
        """After all that it was asked the server lives, answers rightly, met no defect of its own and hasn't grown."""
        log = self.log.read_text()
        assert self.process.poll() is None, log
        assert "Traceback" not in log, log
        self.load_all()
        path, request, right = RIGHT
        status, _, body = self.ask("POST", path, json.dumps(request).encode())
        assert (status, json.loads(body)["outputs"][0]["outputs"]["y"]) == (200, right)
        assert json.loads(self.ask("GET", "/health")[2]) == {"live": True, "ready": True}
        warm, now = campaign.SIZES["warm"], self.size()
        campaign.SIZES["at the end"] = now
        assert now.resident_bytes - warm.resident_bytes <= GROWTH_MAX_BYTES, (warm, now)
        assert now.threads <= warm.threads + THREADS_GROWTH_MAX, (warm, now)
        assert now.files <= warm.files + FILES_GROWTH_MAX, (warm, now)


def hold_answer(part: str, outcome: object, took_s: float, told: str) -> None:
    """Count an answer by its status or code, None where the connection ended without; it is in time and no failure."""
    campaign.part(part).count(str(outcome), took_s, told)
    assert outcome not in FAILURES, f"{told}: {outcome}"
    assert took_s <= ANSWER_MAX_S, f"{told}: answered after {took_s:.1f} s"


@contextlib.contextmanager
def running(folder: Path, broker: str) -> Iterator[Site]:
    """A server in a process of its own, for a while."""
    log = folder / "server.log"
    program = [sys.executable, served.__file__, str(folder), *([broker] if broker else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("w") as errors:
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, log.read_text()
        yield Site(url, process, log, broker)
    finally:
        process.terminate()
        process.wait(START_MAX_S)
