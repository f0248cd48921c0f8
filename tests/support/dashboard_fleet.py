"""A small fleet for tests of the dashboard: two releases, devices of two sites, a rollout, and accounts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edgeml import repository
from edgeml.fleet.registry import DeviceMessage, Registry
from edgeml.fleet.rollouts.plan import Plan
from edgeml.fleet.rollouts.steering import Steering
from edgeml.fleet.web.accounts import Accounts, Role
from edgeml.fleet.web.administration import Administration
from edgeml.repository import layout
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core.drift import Drift
from edgeml_core.messages import DeviceState, ModelState, Report, Tuned
from support import samples

PASSWORD = "correct horse"
#: A user of each role, and their password.
USERS = {role: f"{role}er" for role in Role}
#: A text that would become markup where it isn't escaped.
HOSTILE = "<script>alert(1)</script>\u202e"


def make(repo: Path, devices: int = 4) -> None:
    """Make the repository and what its devices have reported."""
    repository.init(repo)
    for version in ("1.0", "2.0"):
        of = samples.a_manifest(version=version)
        path = repo.parent / f"{of.stem}.edgeml"
        path.write_bytes(samples.a_bundle(of))
        repository.publish(repo, [path])
    names = [f"d-{number}" for number in range(devices)]
    for number, name in enumerate(names):
        labels = {"site": "ab"[number % 2]}
        repository.enroll(repo, name, labels=labels, broker_url=None, out_dir=repo.parent / name)
    repository.deploy(repo, "sample", "1.0", selector="")
    [deployment] = repository.opened(repo).document().deployments
    with closing(Registry(repo / DATABASE_FILE)) as registry:
        registry.record(it for name in names for it in _messages(name, deployment.id))
        steering = Steering(repository.opened(repo), registry)
        plan = Plan(waves=(50.0, 100.0), soak_s=60.0)
        steering.begin("sample", "2.0", selector="", plan_=plan, now=layout.utc_now())


def _messages(name: str, deployment: str) -> Iterator[DeviceMessage]:
    drift = Drift(grade="major", observed=500, psi={"answer": 0.4}) if name == "d-1" else None
    models = {"sample": ModelState(version="1.0", state="active", drift=drift)}
    refusal = {"code": "trust-expired", "message": HOSTILE} if name == "d-2" else {}
    state = DeviceState(online=name != "d-3", session=1, agent="0.1.0", arch="aarch64", models=models, **refusal)
    for at, milliseconds in enumerate((9.0, 4.0, 5.0)):
        tuned = Tuned(
            threads=1,
            batch_size=1,
            prepared=True,
            saved_bytes=0,
            exported_ms=9.0,
            tuned_ms=milliseconds,
            predicted_ram_bytes=40_000_000,
            measured_ram_bytes=(30 + at) * 1_000_000,
        )
        states = ("fetching", "probing", "active")
        report = Report(
            deployment=deployment,
            name="sample",
            version="1.0",
            state=states[at],
            session=1,
            wire_bytes=9000,
            tuned=tuned,
        )
        yield DeviceMessage(device=name, message=report, seen_s=time.time() - 3600 + 600 * at)
    yield DeviceMessage(device=name, message=state, seen_s=time.time() - 30)


def add_accounts(repo: Path, registry: Registry) -> dict[Role, str]:
    """Add a user and a token of each role, and return the tokens."""
    administration = Administration(repository.opened(repo), Accounts(registry.database))
    tokens = {}
    for role, name in USERS.items():
        administration.add_user(name, role, PASSWORD)
        tokens[role] = administration.add_token(f"{role}-token", role)
    return tokens


@contextmanager
def registry_of(repo: Path) -> Iterator[Registry]:
    """Open the registry of a repository."""
    with closing(Registry(repo / DATABASE_FILE)) as registry:
        yield registry
