"""One process of simulated devices: `simulator.py SIMULATION`, which is JSON. It ends when its input is closed.

It prints a `Progress` as a line of JSON whenever it has changed, and the devices that began each version at its end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fleet_parts.device import Boards, Device, Shared, Tally
from fleet_parts.verified_files import VerifiedFiles
from support.slow_links import SlowLink

#: Devices that connect at a time: a process that is busy with more would let the broker's answers wait too long.
CONNECTING_MAX: Final = 64
#: Seconds between two lines of progress.
PROGRESS_EVERY_S: Final = 0.25


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """The devices of one process.

    Args:
        port: the broker's.
        fleet: the fleet's name.
        names: of the devices.
        anchors: the folder with both repositories' roots.
        state: a folder for verified files.
        boards: their behaviour.
        bad_links: the fraction of the devices behind a link that is slow and breaks.
        bits_per_s: the rate of such a link; each connection has its own.
        round_trip_s: its round trip time.
        breaks_after_s: the mean time until such a connection breaks.
    """

    port: int
    fleet: str
    names: list[str]
    anchors: str
    state: str
    boards: Boards
    bad_links: float = 0.0
    bits_per_s: float = 500_000
    round_trip_s: float = 0.3
    breaks_after_s: float = 20.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """See `Tally`; `began` is complete in the last line alone."""

    connected: int
    decided: dict[str, int]
    last_s: dict[str, float]
    serving: dict[str, int]
    errors: dict[str, int]
    began: dict[str, list[str]] = {}


async def simulate(simulation: Simulation) -> None:
    """Run all devices until the input is closed."""
    tally = Tally()
    files = VerifiedFiles(Path(simulation.anchors), Path(simulation.state), simulation.fleet)
    bad = SlowLink(simulation.bits_per_s / 8, simulation.round_trip_s, breaks_after_s=simulation.breaks_after_s or None)
    started, ended = threading.Event(), asyncio.Event()
    proxy = asyncio.create_task(bad.serve(simulation.port, started, ended))
    await asyncio.to_thread(started.wait)
    chance = np.random.default_rng(len(simulation.names))
    shared = Shared(fleet=simulation.fleet, boards=simulation.boards, files=files, tally=tally, chance=chance)
    devices = []
    for name in simulation.names:
        port = bad.port if chance.random() < simulation.bad_links else simulation.port
        devices.append(Device(name, f"mqtt://127.0.0.1:{port}", shared))
    loop = asyncio.get_running_loop()
    threading.Thread(target=_await_end, args=(loop, ended), daemon=True).start()
    progress = asyncio.create_task(_print_progress(tally))
    running = asyncio.create_task(_run_all(devices))
    await asyncio.wait({running, asyncio.create_task(ended.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    _print(_progress(tally, began={version: sorted(names) for version, names in tally.began.items()}))
    for task in (progress, running, proxy):
        task.cancel()


async def _run_all(devices: list[Device]) -> None:
    connecting = asyncio.Semaphore(CONNECTING_MAX)

    async with asyncio.TaskGroup() as tasks:
        for device in devices:
            await connecting.acquire()
            tasks.create_task(device.run())
            tasks.create_task(_release(device, connecting))


async def _release(device: Device, connecting: asyncio.Semaphore) -> None:
    await device.decided.wait()
    connecting.release()


async def _print_progress(tally: Tally) -> None:
    before = None
    while True:
        found = _progress(tally)
        if found != before:
            _print(found)
        before = found
        await asyncio.sleep(PROGRESS_EVERY_S)


def _progress(tally: Tally, began: dict[str, list[str]] | None = None) -> Progress:
    return Progress(
        connected=tally.connected,
        decided=dict(tally.decided),
        last_s=dict(tally.last_s),
        serving=dict(tally.serving),
        errors=dict(tally.errors),
        began=began or {},
    )


def _print(progress: Progress) -> None:
    sys.stdout.write(msgspec.json.encode(progress).decode() + "\n")
    sys.stdout.flush()


def _await_end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    sys.stdin.read()
    loop.call_soon_threadsafe(ended.set)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(simulate(msgspec.json.decode(sys.argv[1], type=Simulation)))
        # The devices' connections end with the process: thousands of goodbyes would take a minute.
        os._exit(0)
