"""What the server costs: memory, added latency, health under load, memory after swaps.

Run from the repository: `PYTHONPATH=tests python benchmarks/serving.py`, or `make bench`. Each figure is a ratio, or
stands beside what it is compared with, from one run on this machine. The server is a process of its own; the model is
`y = x * 2 + 1` with 64 MiB of weights that it holds in memory.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROW = [1.0, 2.0, 3.0, 4.0]
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}]})
PATH = "/v2/models/tiny/infer"
REQUESTS = 3000
SWAPS = 20
WEIGHTS_BYTES = 64 * 1024**2
MIB = 1024**2
BARE = "import edgeml_runtime, onnxruntime; print(flush=True); input()"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        _unpack(Path(folder))
        with _process("-c", BARE) as bare:
            bare.stdout.readline()
            bare_pss = _memory(bare.pid, "Pss")
            bare.stdin.write("\n")
        started = time.perf_counter()
        with _process(__file__, folder) as server:
            port = int(server.stdout.readline())
            _get(port, "/health/ready")
            print(f"ready after start:         {time.perf_counter() - started:.2f} s")
            pss = _memory(server.pid, "Pss")
            print(f"PSS without a model:       {pss / MIB:.1f} MiB; bare onnxruntime {bare_pss / MIB:.1f} MiB")
            _tell(server, "swap")
            _latency(port, float(_tell(server, "run")))
            _health_under_load(port)
            _swaps(server)


def _latency(port: int, run_ms: float) -> None:
    times_ms = ask(port, REQUESTS)
    p50_ms = statistics.median(times_ms)
    print(f"p50 over HTTP:             {p50_ms:.3f} ms; session.run {run_ms:.3f} ms; added {p50_ms - run_ms:.3f} ms")


def _health_under_load(port: int) -> None:
    quiet_ms = [_get(port, "/health/live") for _ in range(300)]
    clients = [threading.Thread(target=ask, args=(port, REQUESTS // 4)) for _ in range(8)]
    for client in clients:
        client.start()
    loaded_ms = []
    while any(client.is_alive() for client in clients):
        loaded_ms.append(_get(port, "/health/live"))
    for client in clients:
        client.join()
    p99 = [statistics.quantiles(times_ms, n=100)[-1] for times_ms in (quiet_ms, loaded_ms)]
    print(f"/health p99:               {p99[1]:.1f} ms under 8 clients; {p99[0]:.1f} ms alone")


def _swaps(server: subprocess.Popen[str]) -> None:
    before = _memory(server.pid, "Rss")
    for _ in range(SWAPS):
        _tell(server, "swap")
    after = _memory(server.pid, "Rss")
    print(f"RSS after {SWAPS} swaps:        {after / before:.2f} times before ({before / MIB:.0f} MiB)")


def ask(port: int, count: int, *, path: str = PATH, body: str = BODY) -> list[float]:
    """The times in ms of `count` inferences on one connection, the first tenth not counted."""
    link, times_ms = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(count):
        begun = time.perf_counter()
        link.request("POST", path, body, {"Content-Type": "application/json"})
        response = link.getresponse()
        answer = response.read()
        times_ms.append((time.perf_counter() - begun) * 1000)
        if response.status != http.client.OK:
            raise RuntimeError(answer.decode())
    link.close()
    return times_ms[count // 10 :]


def _get(port: int, path: str) -> float:
    begun = time.perf_counter()
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    link.request("GET", path)
    link.getresponse().read()
    link.close()
    return (time.perf_counter() - begun) * 1000


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.stdin.close()


def _tell(server: subprocess.Popen[str], command: str) -> str:
    server.stdin.write(f"{command}\n")
    return server.stdout.readline()


def _memory(pid: int, field: str) -> int:
    """A field of Linux's smaps_rollup, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _unpack(folder: Path) -> None:
    """Put a bundle's files into `folder`, its weights inside the model file, so that loading copies them."""
    import onnx  # noqa: PLC0415 - the server's process must not load onnx

    from edgeml_core import manifest as manifests  # noqa: PLC0415
    from edgeml_runtime.unpacked import unpacked  # noqa: PLC0415
    from tiny_models import tiny_onnx_bundle  # noqa: PLC0415

    bundle = folder / "tiny.edgeml"
    tiny_onnx_bundle(bundle, weights_bytes=WEIGHTS_BYTES)
    with unpacked(bundle) as found:
        (folder / manifests.MANIFEST_NAME).write_bytes(manifests.encode(found.manifest))
        shutil.copy(found.folder / found.manifest.golden.path, folder)
        model = onnx.load(found.folder / found.manifest.model)
        gather = next(node for node in model.graph.node if node.op_type == "Gather")
        gather.input[1] = "row"  # from x, else the weights are folded away when the model is loaded
        model.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["row"], to=onnx.TensorProto.INT64))
        onnx.save(model, folder / found.manifest.model)


async def _child(folder: Path) -> None:
    """The server without a model; reads commands: `swap` activates what is in `folder`, `run` measures it alone."""
    import edgeml_runtime.ort  # noqa: F401, PLC0415 - memory counts with onnxruntime loaded
    from edgeml_agent.serve import access, app, models, server  # noqa: PLC0415
    from edgeml_core import manifest as manifests  # noqa: PLC0415

    manifest = manifests.decode((folder / manifests.MANIFEST_NAME).read_bytes())
    live = models.Models()
    listener = server.listen("127.0.0.1", 0)
    web = app.build(live, app.ServerInfo(device="bench", version="0"), access.Rules())
    running = asyncio.create_task(server.serve(web, listener))
    print(listener.getsockname()[1], flush=True)
    while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if command == "swap":
            await live.activate("tiny", folder, manifest)
            print(flush=True)
        else:
            print(await live.run("tiny", _run_ms), flush=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await live.close()


def _run_ms(model) -> float:  # noqa: ANN001 - edgeml_runtime.model.Model, imported by the server's process only
    """The median time of the session alone, in ms."""
    import numpy as np  # noqa: PLC0415

    inputs, times_ms = {"x": np.array([ROW], np.float32)}, []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        model.session.run(inputs)
        times_ms.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times_ms)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_child(Path(sys.argv[1])))
    else:
        main()
