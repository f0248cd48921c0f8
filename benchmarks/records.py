"""What many devices cost the host: `python benchmarks/records.py [DEVICES]...`, by default 5,000 and 100,000.

It makes a repository with that many signed records, two deployments and a broker (Mosquitto). For each step it prints
seconds by the clock and of CPU. The figures of docs/decisions/0017-a-record-for-each-device.md come from it.
"""

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from edgeml import Repository
from edgeml.fleet import snapshot
from edgeml.fleet.link import Broker, session
from edgeml.fleet.record_announcer import RecordAnnouncer
from edgeml.repository import NewKeys, RepositoryFolder, layout, opened
from edgeml_core import broker, desired
from edgeml_core.messages import Topics
from edgeml_core.records import DeviceRecord
from support import brokers, samples

DEVICES_OF_A_SITE = 50


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print the times of the block."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    yield
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    print(f"{what:42} {took_s:8.2f} s {cpu_s:8.2f} s of CPU", flush=True)


def fill(folder: RepositoryFolder, devices: int) -> None:
    """Sign the records of many devices on sites of `DEVICES_OF_A_SITE`."""
    expires = folder.records.expiry(layout.utc_now())
    made = [
        DeviceRecord(
            fleet=folder.fleet_name,
            device=f"board-{number:06d}",
            version=1,
            labels={"site": f"farm-{number // DEVICES_OF_A_SITE}", "target": "rpi4", "ring": str(number % 10)},
            expires=expires,
        )
        for number in range(devices)
    ]
    folder.records.write(folder.records.sign(made))


async def announce(folder: RepositoryFolder, repository: Repository, port: int) -> None:
    """Publish all records, and then one that has changed."""
    url = Broker(url=broker.parse(f"mqtt://127.0.0.1:{port}"))
    async with session(url, "benchmark").connected() as connection:
        announcing = RecordAnnouncer(connection, Topics(folder.fleet_name), folder.records)
        for what in ("all records and sites published", "one record and its site published"):
            with timed(what):
                await announcing.announce(folder.records.all())
            repository.relabel("board-000009", {"ring": "early"})


def measure(devices: int, folder: Path) -> None:
    """Print the figures of one size."""
    print(f"{devices:,} devices")
    repository = Repository.init(folder / "repo", passphrase="")
    host = opened(repository.path)
    with timed("all records signed and written"):
        fill(host, devices)
    (folder / "sample.edgeml").write_bytes(samples.a_bundle())
    repository.publish(folder / "sample.edgeml")
    repository.deploy("sample", percent=10.0)
    with timed("fleet deploy"):
        repository.deploy("sample", to="ring=3")
    with timed("first look of the host"):
        snapshot.read(host)
    with timed("relabel"):
        repository.relabel("board-000007", {"ring": "early"})
    with timed("look after it"):
        snapshot.read(host)
    with timed("look whether anything has changed"):
        host.records.stamp()
    with brokers.mosquitto(folder / "broker", brokers.OPEN) as started:
        asyncio.run(announce(host, repository, started.port))
    with timed("repo rotate fleet"):
        repository.rotate("fleet", NewKeys())
    size_bytes = len(desired.encode(opened(repository.path).document()))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"fleet document {size_bytes} bytes, at most {peak_mb} MB of memory in this process\n")


if __name__ == "__main__":
    for size in map(int, sys.argv[1:] or ["5000", "100000"]):
        with tempfile.TemporaryDirectory() as scratch:
            measure(size, Path(scratch))
