"""Hosts, broker and database are killed at random in the middle of rollouts to simulated devices.

No device may begin a version outside of its wave, and a rollout that was not aborted must end on every device. That
hosts and a database lose no acknowledged report is in `test_replicas`. Mosquitto acknowledges a report before it has
written it, so its kill may lose one: the controller then takes the device's state, or waits.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from edgeml import repository
from edgeml.fleet.fleet import Fleet
from edgeml.fleet.rollouts.plan import ENDED, Phase, Plan, Rollout
from edgeml_core import desired
from fleet_parts.device import Boards
from fleet_parts.site import MODEL, VERSIONS, Swarm, made, names_of, simulations
from support import brokers, postgresql
from support.programs import Programs, host_command, programs
from support.waiting import until

pytestmark = pytest.mark.nightly

DEVICES = 40
KILLS = 50
#: Of a wave: the good rollout's three soaks last about as long as its kills.
SOAK_S = 60.0
WAVES = (10, 50, 100)
#: Devices wait for up to two minutes between connections when the broker has died often.
ENDS_WITHIN_S = 400.0
#: Messages and sessions are written after each change.
PERSISTENT = """allow_anonymous true
max_queued_messages 0
persistence true
autosave_on_changes true
autosave_interval 1"""


class Parts:
    """Two hosts on one database, the broker, and the devices."""

    def __init__(self, folder: Path, broker: brokers.Mosquitto, server: postgresql.Server, hosts: Programs) -> None:
        self.repo, self._broker, self._server, self._hosts = folder / "repo", broker, server, hosts
        self.fleet = Fleet(self.repo, database=server.url)
        for number in range(2):
            self._start(number)

    def _start(self, number: int) -> None:
        command = (*host_command(self.repo, self._broker.url), "--database", self._server.url)
        self._hosts.start(self.repo.parent / f"host-{number}.log", *command)

    def kill(self, chance: np.random.Generator) -> None:
        """Kill one of the four, and start it again after a moment."""
        kind = int(chance.integers(4))
        if kind == 0:
            self._broker.kill()
            time.sleep(chance.uniform(0, 1))
            self._broker.start()
        elif kind == 1:
            self._server.kill()
            time.sleep(chance.uniform(0, 1))
            self._server.start()
        else:
            self._hosts.pop(0).kill()
            self._start(0)
        for host in [it for it in self._hosts if it.process.poll() is not None]:
            # One that found no broker or database at its start has ended: a service manager starts it again.
            self._hosts.remove(host)
            self._start(0)

    def phase(self, rollout: Rollout) -> Rollout:
        """The rollout now."""
        return self.fleet.rollout(rollout.id)[0]

    def survive(self, rollout: Rollout, kills: int, chance: np.random.Generator) -> tuple[Rollout, int]:
        """Kill until the rollout has ended; count the kills before it had."""
        count = 0
        while count < kills and self.phase(rollout).phase not in ENDED:
            time.sleep(chance.uniform(0.3, 3))
            self.kill(chance)
            count += 1
        until(lambda: self.phase(rollout).phase in ENDED, "the end of the rollout", ENDS_WITHIN_S)
        return self.phase(rollout), count


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Parts, Swarm]]:
    """All parts, with the first version on all devices."""
    made(folder / "repo", DEVICES)
    boards = Boards(failing={VERSIONS[1]: 1.0})
    with (
        postgresql.postgresql() as server,
        brokers.mosquitto(folder / "broker", PERSISTENT) as broker,
        programs() as hosts,
    ):
        parts = Parts(folder, broker, server, hosts)
        of = simulations(folder, broker.port, names_of(DEVICES), boards)
        swarm = Swarm(of, folder / "devices.log")
        try:
            until(lambda: swarm.serving(VERSIONS[0]) == DEVICES, "the first version")
            yield parts, swarm
        finally:
            swarm.end()


@pytest.mark.timeout(1800)
def test_rollouts_end_right_through_kills_of_hosts_broker_and_database(tmp_path: Path) -> None:
    """A bad version stays in its first wave, a good one arrives on all devices, wave after wave."""
    seed = int(os.environ.get("EDGEML_FAULTS_SEED", "1"))
    print(f"EDGEML_FAULTS_SEED={seed}")
    chance = np.random.default_rng(seed)
    plan = Plan(waves=WAVES, soak_s=SOAK_S)
    with running(tmp_path) as (parts, swarm):
        bad = parts.fleet.roll_out(MODEL, VERSIONS[1], plan=plan)
        stopped, first_kills = parts.survive(bad, KILLS, chance)
        good = parts.fleet.roll_out(MODEL, VERSIONS[2], plan=plan)
        completed, kills = parts.survive(good, KILLS - first_kills, chance)
        until(lambda: swarm.serving(VERSIONS[2]) == DEVICES, "the good version", ENDS_WITHIN_S)
        print(f"{first_kills} and {kills} kills")
    assert stopped.phase is Phase.ABORTED, stopped.reason
    assert completed.phase is Phase.COMPLETED, completed.reason
    first_wave = sorted(names_of(DEVICES), key=lambda it: desired.place(bad.deployment, it))[: DEVICES // 10]
    assert swarm.began(VERSIONS[1]) <= set(first_wave)
    opened = repository.opened(tmp_path / "repo")
    opened.check_audit()
    acts = [it.act for it in opened.audit.entries() if it.subject == good.id and it.act.startswith("rollout:")]
    # A host that dies between log and database leaves its decision in the log, and the next one decides again.
    in_order = [it for it, _ in itertools.groupby(acts)]
    assert in_order == ["rollout: begin", "rollout: soak"] * len(WAVES) + ["rollout: complete"]
