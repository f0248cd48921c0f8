"""The real server with a tiny model of each task, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from tests.support import task_models

from edgeml_agent.http_api import app, server
from edgeml_agent.http_api.auth import Rules
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.serve.models import Models
from edgeml_core.bundle import BundleReader
from edgeml_core.manifest import Manifest
from edgeml_core.processing import ChatTemplate

TIMEOUT_S = 30
#: A name as a device has it on its network: browsers give less to pages from there than to those of this machine.
ELSEWHERE = "ward-3.local"
#: What was said before stands before the next, without a word of its own.
CHAT = ChatTemplate(between={"": {"user": ""}, "user": {"": "", "assistant": " "}, "assistant": {"user": " "}})


class Site:
    """A server to look at."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop, models: Models, folder: Path) -> None:
        self.url = url
        self.models = models
        self._loop = loop
        self._folder = folder

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What comes of `work` on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S)

    def activate(self, task: Any, **options: Any) -> Manifest:
        """Serve the tiny model of a task."""
        bundle = self._folder / "made.edgeml"
        manifest = task_models.bundle(bundle, task, **options)
        inside = self._folder / manifest.stem
        with bundle.open("rb") as source:
            reader = BundleReader(source)
            for entry in manifest.files:
                (inside / entry.path).parent.mkdir(parents=True, exist_ok=True)
                (inside / entry.path).write_bytes(reader.read(entry.path))
        self.do(self.models.activate(manifest.name, inside, manifest, "d-1"))
        return manifest


@contextlib.contextmanager
def site(folder: Path, rules: Rules | None = None, ready: Callable[[], bool] = lambda: True) -> Iterator[Site]:
    """A server on a free port, without models; gone afterwards."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="site")
    thread.start()
    models, listener = Models(), server.listen("127.0.0.1", 0)
    built = app.build(models, ServerInfo(device="ward-3", version="1.2.3", ready=ready), rules or Rules())
    serving = asyncio.run_coroutine_threadsafe(server.serve(built, listener), loop)
    made = Site(f"http://127.0.0.1:{listener.getsockname()[1]}", loop, models, folder)
    try:
        yield made
    finally:
        serving.cancel()
        made.do(_ended(models))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT_S)
        loop.close()


async def _ended(models: Models) -> None:
    """Models are closed; whatever else runs on the loop has ended."""
    await models.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(others, timeout=TIMEOUT_S) if others else None


def everything(made: Site) -> None:
    """Serve every task; beside the writer one that takes its time, and two that chat."""
    for task in (*task_models.MAKERS, "tensors"):
        made.activate(task)
    made.activate("text-generation", name="slow-writer", slowly=True)
    made.activate("text-generation", name="nurse", chat=CHAT)
    made.activate("text-generation", name="slow-nurse", chat=CHAT, slowly=True)
