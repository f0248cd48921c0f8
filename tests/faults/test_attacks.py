"""Every attack of `attacks` is refused with its code, logged and reported, while the device answers with what it has.

While an attack is on, the owner publishes and deploys a version. When it ends, that version must arrive, though nobody
touches the device.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults import campaign
from faults.attacked_fleet import AttackedFleet, attacked_fleet
from faults.attacks import ATTACKS, Attack


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedFleet]:
    """One device for all attacks: each finds it in peace, and leaves it so."""
    with attacked_fleet(tmp_path_factory.mktemp("attacked")) as made:
        yield made


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_it_is_refused_and_serving_goes_on(attacked: AttackedFleet, attack: Attack) -> None:
    """Refused, logged, reported; the old version answers meanwhile, and the new one in the end."""
    before, since = attacked.made.device.traffic.answer, len(attacked.observer.heard)
    attacked.mitm.meddle = attack.begin(attacked)
    version = attacked.release()
    attack.deploy(attacked, version)
    attacked.refused(attack.code, since)
    assert attacked.made.device.traffic.answer == before
    attacked.made.audit()
    attacked.ends(version)
    campaign.count("attacks refused with their code, logged and reported")
