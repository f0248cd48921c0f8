"""Deploying: which release, to whom, and what the fleet document keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeml import repository
from edgeml.repository import deployments as deploying
from edgeml_core import manifest
from edgeml_core.desired import Deployment
from edgeml_core.errors import UsageError
from support import samples


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with versions 1.0 and 0.9, published in this order, for two boards."""
    repository.init(tmp_path / "repo")
    for version in ("1.0", "0.9"):
        publish(tmp_path, version=version)
        publish(tmp_path, version=version, target="x86-vnni", cpu=manifest.CpuNeeds(arch="x86_64"))
    return tmp_path / "repo"


def publish(folder: Path, **changes) -> None:
    of = samples.a_manifest(**changes)
    path = folder / f"{of.stem}.edgeml"
    path.write_bytes(samples.a_bundle(of))
    repository.publish(folder / "repo", [path])


def deploy(*given, **options) -> Deployment:
    """What was deployed, also to devices that will be enrolled later."""
    return deploying.deploy(*given, allow_empty=True, **options).deployment


def deployments(repo: Path) -> tuple[Deployment, ...]:
    return repository.opened(repo).document().deployments


def test_without_a_version_the_last_published_is_deployed(repo: Path):
    """Order is that of publication, and all boards' bundles of the version are offered with their digests."""
    deployment = deploy(repo, "sample", selector="site=a")
    published = {it.manifest_sha256: it.manifest for it in repository.releases(repository.opened(repo))}
    assert deployment.version == "0.9"
    assert {(it.target, it.arch, it.cpu_features) for it in deployment.bundles} == {
        ("rpi4", "aarch64", ("asimd",)),
        ("x86-vnni", "x86_64", ()),
    }
    assert all(published[it.manifest_sha256].target == it.target for it in deployment.bundles)
    assert deployments(repo) == (deployment,)


@pytest.mark.parametrize(
    ("name", "version", "hint"),
    [("sampel", None, "sample"), ("sample", "1.1", "1.0"), ("zzz", None, "sample")],
)
def test_an_unknown_release_is_answered_with_close_matches(repo: Path, name: str, version: str | None, hint: str):
    """A name or version that isn't published is release-unknown; the hint names what there is."""
    with pytest.raises(UsageError) as caught:
        deploy(repo, name, version, selector="")
    assert caught.value.code == "release-unknown"
    assert hint in caught.value.hint
    assert deployments(repo) == ()


def test_deploying_from_an_empty_repository_says_to_publish(tmp_path: Path):
    """With no release at all, the hint is to publish."""
    repository.init(tmp_path / "empty")
    with pytest.raises(UsageError) as caught:
        deploy(tmp_path / "empty", "sample", selector="")
    assert "edgeml publish" in caught.value.hint


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.5, float("nan")])
def test_a_percentage_is_more_than_nothing_and_at_most_all(repo: Path, percent: float):
    """Shares out of range are usage errors."""
    with pytest.raises(UsageError):
        deploy(repo, "sample", selector="", percent=percent)
    assert deployments(repo) == ()


def test_a_larger_percentage_continues_the_deployment(repo: Path):
    """The same version to the same selector keeps its id, so the devices of the smaller share stay in."""
    first = deploy(repo, "sample", "1.0", selector="site=a", percent=5)
    second = deploy(repo, "sample", "1.0", selector="site=a", percent=25)
    assert second.id == first.id
    assert deployments(repo) == (second,)


def test_a_partial_deployment_leaves_the_version_before_it(repo: Path):
    """With 5 % on the new version the others still want the old one."""
    old = deploy(repo, "sample", "1.0", selector="")
    new = deploy(repo, "sample", "0.9", selector="", percent=5)
    assert deployments(repo) == (old, new)


def test_a_full_deployment_drops_those_it_takes_all_devices_from(repo: Path):
    """100 % to all supersedes 100 % and parts of it, also narrower selectors; another selector stays."""
    deploy(repo, "sample", "1.0", selector="site=a")
    deploy(repo, "sample", "0.9", selector="", percent=5)
    last = deploy(repo, "sample", "0.9", selector="")
    assert deployments(repo) == (last,)
    narrow = deploy(repo, "sample", "1.0", selector="site=b")
    assert deployments(repo) == (last, narrow)


def test_going_back_is_a_new_deployment(repo: Path):
    """The old version deployed again gets an id of its own: devices that refused it once are asked anew."""
    ids = [deploy(repo, "sample", version, selector="").id for version in ("1.0", "0.9", "1.0")]
    assert len(set(ids)) == 3
    assert all(identity.startswith("sample-") for identity in ids)


def test_a_board_added_to_a_version_is_another_deployment(repo: Path, tmp_path: Path):
    """Devices that found no bundle for their board look again; a mere repetition bothers nobody."""
    first, again = deploy(repo, "sample", "1.0", selector=""), deploy(repo, "sample", "1.0", selector="")
    publish(tmp_path, version="1.0", target="rpi5")
    assert first == again
    assert deploy(repo, "sample", "1.0", selector="").id != first.id


def test_a_dry_run_says_to_whom_and_signs_nothing(repo: Path, tmp_path: Path):
    """The devices named are those whose labels match."""
    for device, site in (("one", "a"), ("two", "b")):
        repository.enroll(repo, device, labels={"site": site}, broker_url=None, out_dir=tmp_path / device)
    before = repository.opened(repo).fleet.version()
    deployed = deploying.deploy(repo, "sample", selector="site=a", dry_run=True)
    assert deployed.devices == ("one",)
    assert (deployments(repo), repository.opened(repo).fleet.version()) == ((), before)


def test_withdrawn_version_is_not_deployed(repo: Path):
    """The newest that is left is deployed by default, and a withdrawn one is refused by name."""
    found = repository.withdraw(repo, "sample", "0.9")
    assert (found.versions, found.deployments) == (("0.9",), ())
    assert deploy(repo, "sample", selector="").version == "1.0"
    with pytest.raises(UsageError) as caught:
        deploy(repo, "sample", "0.9", selector="")
    assert caught.value.code == "release-withdrawn"
    assert "1.0" in caught.value.hint


def test_withdrawal_with_the_older_ones_names_the_deployments_that_are_left(repo: Path, tmp_path: Path):
    """Older is what was published before, whatever its number; each bundle of a version is withdrawn."""
    publish(tmp_path, version="2.0")
    old = deploy(repo, "sample", "1.0", selector="")
    found = repository.withdraw(repo, "sample", "0.9", and_older=True)
    assert (found.versions, found.deployments) == (("1.0", "0.9"), (old.id,))
    left = [it.manifest.version for it in repository.releases(repository.opened(repo)) if not it.withdrawn]
    assert left == ["2.0"]
    assert repository.withdraw(repo, "sample", "0.9", and_older=True).versions == ()
    repository.withdraw(repo, "sample", "2.0")
    with pytest.raises(UsageError, match="every version"):
        deploy(repo, "sample", selector="")
    with pytest.raises(UsageError, match=r"9\.9"):
        repository.withdraw(repo, "sample", "9.9")


def test_a_selector_that_matches_no_device_is_refused_with_the_labels_that_exist(repo: Path, tmp_path: Path):
    """A typing error must not look like a success; one for later devices says so. All devices may be none yet."""
    repository.enroll(repo, "one", labels={"site": "barn"}, broker_url=None, out_dir=tmp_path / "one")
    with pytest.raises(UsageError, match="site=barn") as caught:
        deploying.deploy(repo, "sample", selector="site=bran")
    assert "--allow-empty" in caught.value.hint
    assert deployments(repo) == ()
    assert deploying.deploy(repo, "sample", selector="device=one").devices == ("one",)
    assert deploying.deploy(repo, "sample", selector="site!=bran or device=two").devices == ("one",)
    assert deploying.deploy(repo, "sample", selector="site=bran", allow_empty=True).devices == ()


def test_selectors_that_mean_the_same_continue_one_deployment(repo: Path):
    """The signed text is one for all ways to write it."""
    first = deploy(repo, "sample", "1.0", selector="site=a , board in (y,x)")
    second = deploy(repo, "sample", "1.0", selector="board in (x,y),site = a")
    assert (second.id, second.selector) == (first.id, "board in (x,y),site=a")


def test_undeploying_leaves_a_removal_for_the_devices_that_are_away(repo: Path, tmp_path: Path):
    """To one site beside the deployment to all; to all alone. The next deployment takes its place."""
    for device, site in (("one", "a"), ("two", "b")):
        repository.enroll(repo, device, labels={"site": site}, broker_url=None, out_dir=tmp_path / device)
    with pytest.raises(UsageError, match="no deployment"):
        deploying.undeploy(repo, "sample")
    first = deploy(repo, "sample", "1.0", selector="")
    removed = deploying.undeploy(repo, "sample", selector="site=b")
    assert removed.devices == ("two",)
    assert removed.deployment.removes
    assert deployments(repo) == (first, removed.deployment)
    with pytest.raises(UsageError, match="no enrolled device"):
        deploying.undeploy(repo, "sample", selector="site=c")
    everywhere = deploying.undeploy(repo, "sample")
    assert everywhere.devices == ("one", "two")
    assert deployments(repo) == (everywhere.deployment,)
    last = deploy(repo, "sample", "0.9", selector="")
    assert deployments(repo) == (last,)


def test_pinned_device_keeps_its_version_until_it_is_unpinned(repo: Path, tmp_path: Path):
    """Whatever is deployed to all afterwards, and when the model is undeployed."""
    for device in ("one", "two"):
        repository.enroll(repo, device, labels={}, broker_url=None, out_dir=tmp_path / device)
    pin = deploy(repo, "sample", "1.0", selector="device=one", pin=True)
    last = deploying.deploy(repo, "sample", "0.9", selector="")
    assert last.devices == ("two",)
    assert deploying.undeploy(repo, "sample").devices == ("two",)
    with pytest.raises(UsageError, match="no pin"):
        deploying.unpin(repo, "sample", selector="device=two")
    assert deploying.unpin(repo, "sample", selector="device=one") == (pin.id,)
    assert [it.removes for it in deployments(repo)] == [True]
