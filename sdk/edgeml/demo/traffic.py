"""Clients that send requests without pause while a `with` block runs, and count the answers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from edgeml.demo.site import Site
from edgeml_core.errors import EdgemlError

#: Threads: as many as keep two cores busy beside the agent.
CLIENTS: Final = 4


@dataclass
class Served:
    """The answers that the clients received, by version, and their failures."""

    versions: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    @property
    def answered(self) -> int:
        """Count all answers."""
        return self.versions.total()


@contextmanager
def traffic(site: Site, name: str, texts: Sequence[str]) -> Iterator[Served]:
    """Send requests to the model `name` from several threads until the block ends; the counts are final then."""
    served, lock, stop = Served(), threading.Lock(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for text in texts:
                try:
                    version = site.ask(name, {"text": text})["version"]
                except EdgemlError:
                    version = None
                with lock:
                    if version is None:
                        served.failed += 1
                    else:
                        served.versions[str(version)] += 1

    threads = [threading.Thread(target=ask, name=f"client-{number}") for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield served
    finally:
        stop.set()
        for thread in threads:
            thread.join()
