"""Chunks that nothing needs: which go, which stay, and how a pruned release comes back."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from edgeml import repository
from edgeml.cli.main import run
from edgeml.fleet.fleet import Fleet
from edgeml.fleet.registry import Registry
from edgeml.fleet.rollouts.plan import Phase, Plan
from edgeml.fleet.rollouts.steering import Steering
from edgeml.repository import chunk_ids, layout, passphrase, pruning, staging
from edgeml.repository.releases import releases
from edgeml.repository.withdrawals import withdraw
from edgeml_core.errors import UsageError
from support.tiny_models import tiny_onnx_bundle

VERSIONS = ("1", "2", "3")


@pytest.fixture
def made(tmp_path: Path):
    """Three versions of a model, each with weights of its own."""
    repo = tmp_path / "repo"
    repository.init(repo, secret="")
    bundles = {}
    for seed, version in enumerate(VERSIONS):
        bundles[version] = tmp_path / f"{version}.edgeml"
        tiny_onnx_bundle(bundles[version], version=version, seed=seed, weights_bytes=200_000)
        repository.publish(repo, [bundles[version]])
    return SimpleNamespace(repo=repo, bundles=bundles)


def pruned(repo: Path) -> None:
    """Prune by the command, down to one version."""
    with pytest.raises(SystemExit) as ended:
        run(["repo", "prune", "--repo", str(repo), "--keep", "1"])
    assert ended.value.code == 0


def whole(repo: Path) -> list[str]:
    """The versions that have all their chunks, read back."""
    folder = layout.opened(repo)
    return [it.manifest.version for it in releases(folder) if not folder.chunks.missing(chunk_ids.stored(it))]


def test_repository_without_waste_loses_nothing(made):
    """Nor does one with a new chunk that no release names: it may be staged."""
    folder = layout.opened(made.repo)
    folder.chunks.add([b"staged"])
    assert pruning.prune(made.repo).chunks == 0
    later = layout.utc_now() + pruning.UNNAMED_KEPT + timedelta(days=1)
    assert pruning.prune(made.repo, now=later).chunks == 1
    assert whole(made.repo) == list(VERSIONS)


def test_chunks_of_withdrawn_and_older_versions_go(made):
    """Those that other versions share stay; the audit log has the removal."""
    withdraw(made.repo, "tiny", "2")
    assert pruning.prune(made.repo, dry_run=True).size_bytes > 100_000
    assert whole(made.repo) == list(VERSIONS)
    pruned = pruning.prune(made.repo)
    assert (len(pruned.releases), whole(made.repo)) == (1, ["1", "3"])
    assert pruning.prune(made.repo, keep=2).chunks == 0
    assert len(pruning.prune(made.repo, keep=1).releases) == 1
    assert whole(made.repo) == ["3"]
    assert layout.opened(made.repo).audit.entries()[-1].act == "prune"


def test_deployed_version_keeps_its_chunks(made):
    """Also when it is old, or withdrawn."""
    repository.deploy(made.repo, "tiny", "1", selector="")
    withdraw(made.repo, "tiny", "1")
    pruning.prune(made.repo, keep=1)
    assert whole(made.repo) == ["1", "3"]


def test_release_of_a_rollout_that_waits_keeps_its_chunks(made):
    """The signed document names it with 0 % until the hours of the first wave have come."""
    repository.deploy(made.repo, "tiny", "3", selector="")
    fleet, far = Fleet(made.repo), layout.utc_now() + timedelta(hours=12)
    waiting = Plan(waves=(100,), window=f"{far:%H}:00-{far:%H}:59")
    fleet.roll_out("tiny", "1", plan=waiting, allow_empty=True)
    pruned(made.repo)
    assert whole(made.repo) == ["1", "3"]
    fleet.steer("tiny", "abort")
    pruned(made.repo)
    assert whole(made.repo) == ["3"]


def test_staged_release_keeps_its_chunks_until_it_is_merged(made, tmp_path):
    """It shares them with a withdrawn one. A change that another one has overtaken can't be merged, and needs none."""
    withdraw(made.repo, "tiny", "2")
    bundle, stick = tmp_path / "4.edgeml", tmp_path / "stick"
    tiny_onnx_bundle(bundle, version="4", seed=1, weights_bytes=200_000)
    staging.stage(made.repo, stick, [bundle])
    pruning.prune(made.repo)
    staging.sign(stick, made.repo / "keys")
    staging.merge(made.repo, stick)
    assert whole(made.repo) == ["1", "2", "3", "4"]
    withdraw(made.repo, "tiny", "4")
    assert staging.staged_releases(layout.opened(made.repo)) == []
    pruning.prune(made.repo)
    assert whole(made.repo) == ["1", "3"]
    staging.stage(made.repo, tmp_path / "other", [])
    assert list((made.repo / staging.STAGED_FOLDER).iterdir()) == []


def test_rollouts_in_a_database_elsewhere_are_never_left_out(made, tmp_path, capsys):
    """The repository knows it since the first of them; an empty registry beside it changes nothing."""
    repository.deploy(made.repo, "tiny", "3", selector="")
    database, far = tmp_path / "elsewhere.db", layout.utc_now() + timedelta(hours=12)
    waiting = Plan(waves=(100,), window=f"{far:%H}:00-{far:%H}:59")
    Fleet(made.repo, database=database).roll_out("tiny", "1", plan=waiting, allow_empty=True)
    Registry(made.repo / layout.DATABASE_FILE).record([])
    command = ["repo", "prune", "--repo", str(made.repo), "--keep", "1"]
    with pytest.raises(SystemExit) as ended:
        run(command)
    assert (ended.value.code, whole(made.repo)) == (2, list(VERSIONS))
    assert f"lie in {database}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        run([*command, "--database", str(database)])
    assert (ended.value.code, whole(made.repo)) == (0, ["1", "3"])


def test_release_that_a_rollback_signs_again_keeps_its_chunks(made):
    """Until another deployment takes the place of the rollout's."""
    repository.deploy(made.repo, "tiny", "1", selector="")
    replaced = layout.opened(made.repo).document().deployments
    rollout = Fleet(made.repo).roll_out("tiny", "3", plan=Plan(waves=(100,)), allow_empty=True)
    with closing(Registry(made.repo / layout.DATABASE_FILE)) as registry:
        steering = Steering(layout.opened(made.repo), registry)
        steering.rollouts.change(msgspec.structs.replace(rollout, phase=Phase.COMPLETED, replaced=replaced))
        list(steering.turn(layout.utc_now()))
    pruned(made.repo)
    assert whole(made.repo) == ["1", "3"]
    repository.publish(made.repo, [made.bundles["2"]])
    repository.deploy(made.repo, "tiny", "2", selector="")
    pruned(made.repo)
    assert whole(made.repo) == ["2", "3"]


def test_pruned_version_is_deployed_after_it_is_published_again(made):
    """Until then the operator learns what to do."""
    pruning.prune(made.repo, keep=1)
    with pytest.raises(UsageError) as caught:
        repository.deploy(made.repo, "tiny", "2", selector="")
    assert caught.value.code == "release-pruned"
    repository.publish(made.repo, [made.bundles["2"]])
    assert repository.deploy(made.repo, "tiny", "2", selector="").deployment.version == "2"


def test_command_refuses_to_keep_nothing(made, capsys):
    """And prints what it would remove."""
    with pytest.raises(SystemExit) as caught:
        run(["repo", "prune", "--repo", str(made.repo), "--keep", "0"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        run(["repo", "prune", "--repo", str(made.repo), "--keep", "1", "--dry-run"])
    assert "would remove" in capsys.readouterr().out


def test_passphrase_is_read_from_a_file(tmp_path: Path, monkeypatch):
    """A service needs no secret in its environment; two sources are an error."""
    file = tmp_path / "passphrase"
    file.write_text("correct horse\n")
    monkeypatch.delenv(passphrase.VARIABLE, raising=False)
    monkeypatch.setenv(passphrase.FILE_VARIABLE, str(file))
    assert passphrase.from_environment() == "correct horse"
    monkeypatch.setenv(passphrase.VARIABLE, "another")
    with pytest.raises(UsageError):
        passphrase.from_environment()
