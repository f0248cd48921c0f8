"""The signed files that a relay shows its site, from a real repository."""

from functools import partial

from edgeml import repository
from edgeml_agent.offline.sources import FolderFiles
from edgeml_agent.relay.files import SiteTrust, TargetCache
from edgeml_agent.settings import DeviceSettings
from edgeml_agent.trust.trust import Trust, verified_metadata
from edgeml_core import trust


class Source(FolderFiles):
    """The repository's folder, which counts what is read."""

    def __init__(self, folder):
        super().__init__(folder)
        self.read_files = []

    def read(self, repo, file):
        """Read it."""
        self.read_files.append(file)
        return super().read(repo, file)


def test_roots_before_the_relays_own_are_shown_and_read_once(tmp_path):
    """A device that was enrolled before the keys were changed follows them behind a relay that was enrolled after."""
    repo, shown = tmp_path / "repo", []
    repository.init(repo, fleet="farm")
    for group in ("fleet", "release"):
        repository.rotate(repo, group, repository.NewKeys())
    repository.enroll(repo, "relay-1", labels={"site": "barn"}, broker_url=None, out_dir=tmp_path / "relay-1")
    source = Source(repo)
    targets = TargetCache(source)
    device = DeviceSettings(id="relay-1", fleet="farm")
    verifier = Trust(tmp_path / "relay-1" / "trust", tmp_path / "store", targets, device)
    metadata = partial(verified_metadata, tmp_path / "store")
    site = SiteTrust(verifier, targets, metadata, shown.append)
    site.desired()
    site.desired()
    for opened in repository.opened(repo).both:
        files = {file: (opened.folder / file).read_bytes() for file in opened.files() if "metadata/" in file}
        files[trust.NEWEST_ROOT_FILE] = opened.newest_root()
        found = {file: data for (name, file), data in shown[-1].files.items() if name == opened.name}
        assert {file: data for file, data in found.items() if "metadata/" in file} == files
    assert source.read_files.count("metadata/1.root.json") == source.read_files.count("metadata/2.root.json") == 2
