"""The store's disk stops, tears, refuses or forgets at each single step of an update, one after the other.

The agent's own store, releases and fetch, on a disk that fails at the n-th call, for each n until all calls had a turn.
A power cut also takes what wasn't synced: each such write is gone, or half of it, or none, by the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from edgeml_agent.store.releases import PartialRelease
from edgeml_core import chunks
from edgeml_core.errors import EdgemlError
from edgeml_core.lifecycle import State
from faults import campaign
from support.fakes import Bench, Killed
from support.samples import a_manifest

NAME: Final = "sample"
WAYS: Final = ("power cut", "torn write", "no space", "input/output error")
_ERRNO: Final = {"no space": errno.ENOSPC, "input/output error": errno.EIO}
_CALLS: Final = ("pwrite", "fsync", "replace", "rename", "mkdir")


class FailingDisk:
    """The calls by which the store writes; the n-th fails in some way, and after a power cut all that follow."""

    def __init__(self, way: str, step: int, chance: np.random.Generator) -> None:
        self.is_reached = False
        self._way = way
        self._left = step
        self._chance = chance
        self._real = {name: getattr(os, name) for name in _CALLS}
        #: By file, what each write since its last sync has written over.
        self._unsynced: dict[str, list[tuple[int, bytes]]] = {}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Everything written while the block runs goes through here; at its end the power is back."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _CALLS:
                patch.setattr(os, name, lambda *given, _name=name, **named: self._call(_name, *given, **named))
            yield
        if self.is_reached and self._way == "power cut":
            self._forget()

    def _call(self, name: str, *given: object, **named: object) -> object:
        self._left -= 1
        if self._left == 0 or (self.is_reached and self._way not in _ERRNO):
            self._fail(name, *given)
        if name == "pwrite":
            handle, data, offset = given
            self._unsynced.setdefault(_path(handle), []).append((offset, os.pread(handle, len(data), offset)))
        if name == "fsync":
            self._unsynced.pop(_path(given[0]), None)
        return self._real[name](*given, **named)

    def _fail(self, name: str, *given: object) -> None:
        is_first, self.is_reached = not self.is_reached, True
        if self._way in _ERRNO:
            raise OSError(_ERRNO[self._way], os.strerror(_ERRNO[self._way]))
        if is_first and name == "pwrite" and self._way == "torn write":
            handle, data, offset = given
            self._real["pwrite"](handle, data[: len(data) // 2], offset)
        raise Killed

    def _forget(self) -> None:
        """Each write that wasn't synced reached the disk, or didn't, or in its first half."""
        for path, writes in self._unsynced.items():
            for offset, before in reversed(writes):
                with contextlib.suppress(OSError), Path(path).open("r+b") as file:
                    kept = int(self._chance.choice([0, len(before) // 2, len(before)]))
                    file.seek(offset + kept)
                    file.write(before[kept:])


def _path(handle: object) -> str:
    return str(Path(f"/proc/self/fd/{handle}").readlink())


@pytest.mark.parametrize("way", WAYS)
def test_at_every_step(tmp_path: Path, way: str) -> None:
    """The version before answers after the restart, or the new one if it was there; and the update arrives."""
    chance, step, is_reached = campaign.chance(f"torn writes, {way}"), 0, True
    while is_reached:
        step += 1
        is_reached = fails_at(tmp_path / str(step), way, step, chance)
        campaign.count("writes that failed", is_reached)
    assert step > len(WAYS)


def fails_at(folder: Path, way: str, step: int, chance: np.random.Generator) -> bool:
    """One update whose n-th step fails; whether there was an n-th step."""
    bench, disk = Bench(folder), FailingDisk(way, step, chance)
    go(bench, "1.0")
    released(bench, "2.0")
    with disk.used(), contextlib.suppress(EdgemlError, Killed):
        asyncio.run(bench.agent.attempt(bench.trust.deployments[-1]))
    bench.store.close()
    bench.start()
    asyncio.run(bench.daemon.start_serving())
    serves = set(bench.server.live.values())
    campaign.check_invariant(
        "devices without a serving model", serves & {"1.0", "2.0"}, f"{way} at step {step}: {serves}"
    )
    right(bench)
    if bench.store.record(NAME).state is not State.ACTIVE or serves != {"2.0"}:
        asyncio.run(bench.agent.attempt(bench.trust.deployments[-1]))
    campaign.check_invariant(
        "devices that didn't converge", bench.server.live == {NAME: "2.0"}, f"{way} at step {step}"
    )
    right(bench)
    bench.store.close()
    return disk.is_reached


def go(bench: Bench, version: str) -> None:
    """Release and install a version, with nothing going wrong."""
    released(bench, version)
    asyncio.run(bench.agent.attempt(bench.trust.deployments[-1]))


def released(bench: Bench, version: str) -> None:
    """Release a version of three chunks, and let the device want it."""
    weights = version.encode().ljust(8) * (2 * chunks.CHUNK_BYTES // 8) + version.encode()
    files = {"golden.msgpack": b"golden", "model.onnx": b"graph", "model.weights": weights}
    bench.deploy(NAME, version, bench.release(a_manifest(version=version), files))


def right(bench: Bench) -> None:
    """What would answer, and what would after a rollback, is on the disk as it was released."""
    record = bench.store.record(NAME)
    for digest in filter(None, (record.active, record.previous)):
        PartialRelease(bench.releases.folder(digest), bench.releases.read(digest)).verify()
        campaign.check_invariant("wrong bytes activated", digest in bench.trust.manifests, digest)
