"""What all fuzz tests share: one server that takes all their inputs, and the counts printed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from fuzz import campaign, right
from fuzz import site as sites
from fuzz.site import Site
from support import brokers

#: Of everything that is right, asked before the server's memory is looked at.
WARM_ROUNDS: Final = 10


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server, warm: each model and each door has done its work some times."""
    folder = tmp_path_factory.mktemp("fuzzed")
    with brokers.mosquitto(folder) as broker, sites.running(folder, broker.url) as made:
        for it in right.ALL * WARM_ROUNDS:
            status, _, body = made.ask(*it.asked())
            assert status == 200, (it.path, body)
        assert made.ask("GET", "/openapi.json")[0] == 200
        campaign.SIZES["warm"] = made.size()
        yield made
