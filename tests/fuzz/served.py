"""The real server in a process of its own, with a tiny model of each task: `python served.py FOLDER [BROKER]`.

With the address of a broker the MQTT door is open, too. It prints the address of its HTTP doors when all answer.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from tests.browser.served import CHAT
from tests.integration.test_serving import unpacked
from tests.support import task_models

from edgeml_agent.http_api import app, server
from edgeml_agent.http_api.auth import Rules
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.link.link import MqttLink
from edgeml_agent.mqtt_api.inference import MqttInference
from edgeml_agent.serve.models import Models
from edgeml_agent.settings import BrokerSettings, DeviceSettings
from edgeml_core import broker as broker_urls
from fuzz.request import TOKEN

DEVICE = "board-1"
FLEET = "farm"
VERSION = "1.2.3"
_LOOK_EVERY_S = 0.02


async def main(folder: Path, broker: str | None) -> None:
    """Serve until the process is ended."""
    models, listener = Models(), server.listen("127.0.0.1", 0)
    for task in (*task_models.MAKERS, "tensors"):
        inside, manifest = unpacked(folder, task_models.bundle, task=task)
        await models.activate(manifest.name, inside, manifest, "d-1")
    inside, manifest = unpacked(folder, task_models.bundle, task="text-generation", name="nurse", chat=CHAT)
    await models.activate(manifest.name, inside, manifest, "d-1")
    async with asyncio.TaskGroup() as tasks:
        if broker:
            await _open(tasks, models, broker)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        built = app.build(models, ServerInfo(device=DEVICE, version=VERSION), Rules(token=TOKEN))
        await server.serve(built, listener)


async def _open(tasks: asyncio.TaskGroup, models: Models, broker: str) -> None:
    """Open the MQTT door, and return when it hears."""
    sessions = itertools.count(1)
    settings = BrokerSettings(url=broker_urls.parse(broker), ca=None, cert=None, key=None)
    link = MqttLink(settings, DeviceSettings(id=DEVICE, fleet=FLEET, labels={}), lambda: next(sessions))
    line = link.open_requests()
    running = [tasks.create_task(link.run()), tasks.create_task(MqttInference(line, models).run())]
    while not link.is_online:
        if any(task.done() for task in running):
            return
        await asyncio.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *(sys.argv[2:] or [None])))
