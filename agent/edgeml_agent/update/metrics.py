"""Metrics of updates for `/metrics`: each model's state, and the bytes that its fetches received."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from edgeml_agent.serve.metrics import Metric, Sample
from edgeml_agent.store.database import Store
from edgeml_core.lifecycle import State


class UpdateMetrics:
    """Counts of one device's updates since the agent's start."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fetched_bytes: Counter[str] = Counter()

    def start_fetch(self, model: str) -> Callable[[int], None]:
        """Begin to count a fetch.

        Returns:
            A function that takes the number of bytes that this fetch has received so far.
        """
        counted_bytes = 0

        def count(wire_bytes: int) -> None:
            nonlocal counted_bytes
            self._fetched_bytes[model] += wire_bytes - counted_bytes
            counted_bytes = wire_bytes

        return count

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now.

        Raises:
            DeviceError: `store-failed`.
        """
        records = self._store.records()
        states = tuple(_sample(name, state, record.state) for name, record in records.items() for state in State)
        yield Metric("edgeml_update_state", "gauge", "1 for the state that the model's update is in.", states)
        fetched = tuple(("", {"model": name}, self._fetched_bytes[name]) for name in records)
        yield Metric("edgeml_fetched_bytes_total", "counter", "Bytes of chunks that came over the wire.", fetched)


def _sample(model: str, state: State, current: State) -> Sample:
    return "", {"model": model, "state": state}, int(state is current)
