"""Swaps under load: a server whose model is swapped on command, and clients that check each answer.

The versions answer `x * scale + 1`, each with its own scale, and hold their weights in memory. As a program this is the
server: `swaps.py FOLDER` prints its port, then activates the version that each line of stdin names.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

SCALES: Final = {"1.0": 2.0, "1.1": 3.0, "1.2": 5.0}
MODEL: Final = "tiny"
CLIENTS: Final = 16
ROW: Final = (1.0, 2.0, 3.0, 4.0)
PATH: Final = f"/v2/models/{MODEL}/infer"
BODY: Final = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}]}).encode()


@dataclass
class Outcome:
    """The answers by version, and the failures: errors, and answers that aren't those of the version that they name."""

    by_version: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Server:
    """The process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._read_line())

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def swap(self, version: str) -> None:
        """Activate another version; return when the one before is unloaded."""
        self._process.stdin.write(f"{version}\n")
        if self._read_line() != version:
            raise RuntimeError(f"version {version} isn't active")

    def _read_line(self) -> str:
        return self._process.stdout.readline().strip()


@contextmanager
def serving(folder: Path, *, weights_bytes: int) -> Iterator[Server]:
    """Run a server for the time of a block; the first version is active."""
    for version, scale in SCALES.items():
        _unpack(folder, version, scale, weights_bytes)
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            server = Server(process)
            server.swap(next(iter(SCALES)))
            yield server
        finally:
            process.stdin.close()


async def under_load(server: Server, swaps: int) -> Outcome:
    """Swap versions `swaps` times under load; return the clients' answers."""
    outcome, over = Outcome(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(_client(server.port, outcome, over))
        for number in range(1, swaps + 1):
            await asyncio.to_thread(server.swap, list(SCALES)[number % len(SCALES)])
        over.set()
    return outcome


async def _client(port: int, outcome: Outcome, over: asyncio.Event) -> None:
    from support import plain_http  # noqa: PLC0415 - the server's process doesn't have the tests' folder

    async with plain_http.connection(port) as connection:
        while not over.is_set():
            answer = await connection.post(PATH, BODY)
            content = json.loads(answer.content)
            scale = SCALES.get(content.get("model_version", ""))
            if answer.status == HTTPStatus.OK and content["outputs"][0]["data"] == [x * scale + 1 for x in ROW]:
                outcome.by_version[content["model_version"]] += 1
            else:
                outcome.failures.append(f"{answer.status}: {answer.content[:200]!r}")


def _unpack(folder: Path, version: str, scale: float, weights_bytes: int) -> None:
    """Write a version's files into a folder, its weights inside the model file, so that loading copies them."""
    import onnx  # noqa: PLC0415 - the server's process must not load onnx

    from edgeml_core import manifest as manifests  # noqa: PLC0415
    from edgeml_runtime.unpack import unpacked  # noqa: PLC0415
    from support.tiny_models import tiny_onnx_bundle  # noqa: PLC0415

    bundle, inside = folder / f"{version}.edgeml", folder / version
    tiny_onnx_bundle(bundle, name=MODEL, version=version, scale=scale, weights_bytes=weights_bytes)
    inside.mkdir()
    with unpacked(bundle) as found:
        (inside / manifests.MANIFEST_NAME).write_bytes(manifests.encode(found.manifest))
        shutil.copy(found.folder / found.manifest.golden.path, inside)
        model = onnx.load(found.folder / found.manifest.model)
        gather = next(node for node in model.graph.node if node.op_type == "Gather")
        gather.input[1] = "row"  # from x, else the weights are folded away when the model is loaded
        model.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["row"], to=onnx.TensorProto.INT64))
        onnx.save(model, inside / found.manifest.model)


async def _serve(folder: Path) -> None:
    from edgeml_agent.http_api import app, auth, server  # noqa: PLC0415
    from edgeml_agent.serve import models  # noqa: PLC0415 - only the server's process
    from edgeml_core import manifest as manifests  # noqa: PLC0415

    live, listener = models.Models(), server.listen("127.0.0.1", 0)
    web = app.build(live, app.ServerInfo(device="swapped", version="0"), auth.Rules())
    running = asyncio.create_task(server.serve(web, listener))
    print(listener.getsockname()[1], flush=True)
    while version := (await asyncio.to_thread(sys.stdin.readline)).strip():
        manifest = manifests.decode((folder / version / manifests.MANIFEST_NAME).read_bytes())
        await live.activate(MODEL, folder / version, manifest)
        await live.retired()
        print(live.active()[MODEL].manifest.version, flush=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await live.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
