"""Where each model's update stands and what came over the wire for it, for `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from edgeml_agent.serve.metrics import Metric, Sample
from edgeml_agent.store.database import Store
from edgeml_agent.update.reporter import Reporter
from edgeml_core.lifecycle import State


def of(store: Store, telling: Reporter) -> Iterator[Metric]:
    """The metrics now.

    Raises:
        DeviceError: `store-failed`.
    """
    records = store.records()
    states = tuple(_sample(name, state, record.state) for name, record in records.items() for state in State)
    yield Metric("edgeml_update_state", "gauge", "1 for the state that the model's update is in.", states)
    fetched = tuple(("", {"model": name}, telling.wire_bytes[name]) for name in records)
    yield Metric("edgeml_fetched_bytes_total", "counter", "Bytes of chunks that came over the wire.", fetched)


def _sample(model: str, state: State, current: State) -> Sample:
    return "", {"model": model, "state": state}, int(state is current)
