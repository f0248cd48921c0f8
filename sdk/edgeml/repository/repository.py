"""`Repository`: signed releases, devices and deployments in one folder, for Python callers and the command line.

Each method is one operation of this package on that folder. `layout.RepositoryFolder` is the layer below: where the
files lie, the lock and the keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from edgeml.bundles import Bundle
from edgeml.repository import (
    deployments,
    devices,
    layout,
    offline,
    renewal,
    rotation,
    saved_selectors,
    withdrawals,
)
from edgeml.repository.client_access import ClientAccess
from edgeml.repository.deployments import Deployed
from edgeml.repository.device_folder import DeviceFiles
from edgeml.repository.devices import Enrolled, EnrolledDevice
from edgeml.repository.offline import SiteCopy
from edgeml.repository.releases import Published, Release, publish, releases
from edgeml.repository.renewal import Refreshed
from edgeml.repository.rotation import KeyGroup, NewKeys
from edgeml.repository.withdrawals import Withdrawn
from edgeml_core.desired import Deployment
from edgeml_core.selectors import EVERYONE


class Repository(ClientAccess):
    """A repository of signed releases for one fleet. Made by `Repository.init` or `Repository.open`.

    Every method locks the folder while it writes, so several processes may use one repository.
    """

    def __init__(self, path: Path, fleet_name: str) -> None:
        #: The folder.
        self.path = path
        #: The name in the MQTT topics of all devices.
        self.fleet_name = fleet_name

    def __repr__(self) -> str:
        return f"Repository({str(self.path)!r})"

    @classmethod
    def init(cls, path: Path | str, *, fleet: str = layout.DEFAULT_FLEET, passphrase: str | None = None) -> Repository:
        """Make a repository with two new keys and two certificate authorities in a folder that is new or empty.

        Args:
            path: the folder.
            fleet: the name in the MQTT topics of all devices.
            passphrase: encrypts the keys; an empty one leaves them open. None takes `EDGEML_KEY_PASSPHRASE`.

        Raises:
            UsageError: `usage`, when `path` has content or can't be written, or `fleet` is no name.

        >>> Repository.init("farms", fleet="farms", passphrase="")
        Repository('farms')
        """
        folder = layout.init(Path(path), fleet=fleet, secret=passphrase)
        return cls(folder.folder, folder.fleet_name)

    @classmethod
    def open(cls, path: Path | str) -> Repository:
        """Open the repository in a folder.

        Raises:
            UsageError: `repo-invalid`, when the folder has none.

        >>> Repository.open("farms").fleet_name
        'farms'
        """
        folder = layout.opened(Path(path))
        return cls(folder.folder, folder.fleet_name)

    def publish(self, *bundles: Bundle | Path | str, group: str | None = None) -> list[Published]:
        """Check bundles, sign them and add them as one change: all or none.

        Args:
            bundles: opened bundles or `.edgeml` files. Measurements beside them are signed, too.
            group: encrypt the bundles for devices that were enrolled with this group.

        Raises:
            UsageError: `release-exists`, when that version is released with other content; `repo-invalid`.
            RejectedError: a bundle is malformed or damaged.

        >>> [release] = Repository.open("farms").publish(bundle)
        >>> release.name, release.version, release.added
        ('minilm', '1', True)
        """
        paths = [it.path if isinstance(it, Bundle) else Path(it) for it in bundles]
        return publish(self.path, paths, group=group)

    def releases(self) -> list[Release]:
        """List the signed releases in the order of their publication.

        Raises:
            UsageError: `repo-invalid`.

        >>> [release.manifest.stem for release in Repository.open("farms").releases()]
        ['minilm-1-x86-vnni-onnx']
        """
        return releases(layout.opened(self.path))

    def withdraw(self, name: str, version: str, *, and_older: bool = False, undo: bool = False) -> Withdrawn:
        """Sign, with the release key, that no device installs a version any more, not even for a stolen fleet key.

        A device that serves it already keeps it until another version is deployed.

        Args:
            name: of the model.
            version: its version.
            and_older: also those of its versions that were published before.
            undo: let devices install them again.

        Raises:
            UsageError: `release-unknown`; `repo-invalid`, also when the release key is missing.

        >>> Repository.open("farms").withdraw("minilm", "1").versions
        ('1',)
        >>> Repository.open("farms").withdraw("minilm", "1", undo=True).deployments
        ()
        """
        return withdrawals.withdraw(self.path, name, version, and_older=and_older, undo=undo)

    def enroll(
        self,
        device: str,
        *,
        output: Path | str,
        labels: Mapping[str, str] | None = None,
        broker: str | None = None,
        groups: Sequence[str] = (),
        ca: Path | None = None,
        password_file: Path | None = None,
        store: str | None = None,
        relay: bool = False,
    ) -> Enrolled:
        """Add a device to the fleet, and write its agent.toml and trust anchors.

        Args:
            device: an id that is unique in the fleet.
            output: the folder to copy to the device.
            labels: signed; deployments select by them. `target` names the board, `site` the place.
            broker: `mqtt[s]://HOST[:PORT]` as the device sees it; None takes the repository's own broker, and without
                one leaves it to `EDGEML_BROKER_URL` there. With `mqtts` and no user the device gets a certificate.
            groups: the device gets their keys, to read models that are encrypted for them.
            ca: PEM file of the broker's authority, which is copied to `output`. A device with a certificate gets the
                repository's by default.
            password_file: the file with the password of the user in `broker`; it is copied, too.
            store: the device's folder for releases, an absolute path there; None is `store` beside agent.toml.
            relay: the broker lets the device pass on the messages of its site.

        Raises:
            UsageError: `usage`, for a bad id, URL, file or folder; `device-exists`; `repo-invalid`.

        >>> Repository.open("farms").enroll("barn-1", labels={"site": "farm-7"}, output="barn-1").config
        'barn-1/agent.toml'
        """
        return devices.enroll(
            self.path,
            device,
            labels=labels or {},
            broker_url=broker,
            out_dir=Path(output),
            groups=groups,
            files=DeviceFiles(ca=ca, password_file=password_file, store=store),
            relay=relay,
        )

    def devices(self) -> list[EnrolledDevice]:
        """List all devices by id, also revoked ones. `Fleet.devices` has their last states.

        Raises:
            UsageError: `repo-invalid`.

        >>> [(device.id, device.labels, device.revoked) for device in Repository.open("farms").devices()]
        [('barn-1', {'site': 'farm-7'}, False)]
        """
        return devices.devices(self.path)

    def device(self, device: str) -> EnrolledDevice:
        """Return one device.

        Raises:
            UsageError: `device-unknown`; `repo-invalid`.
        """
        return devices.device(self.path, device)

    def deployments_of(self, device: str) -> list[Deployment]:
        """List the deployments that include a device, by model; a revoked one has none.

        Raises:
            UsageError: `device-unknown`; `repo-invalid`.
        """
        return devices.deployments_of(self.path, device)

    def relabel(
        self, device: str, labels: Mapping[str, str] | None = None, *, removed: Collection[str] = ()
    ) -> EnrolledDevice:
        """Change the labels of a device, by one small signed message that a running `Fleet.serve` announces.

        Args:
            device: its id.
            labels: added, or replacing those of the same keys.
            removed: keys of labels to remove.

        Raises:
            UsageError: `device-unknown`; `usage`, when it has no such label or is revoked; `repo-invalid`.

        >>> Repository.open("farms").relabel("barn-1", {"ring": "early"}).labels
        {'site': 'farm-7', 'ring': 'early'}
        >>> Repository.open("farms").relabel("barn-1", removed=["ring"]).labels
        {'site': 'farm-7'}
        """
        return devices.relabel(self.path, device, labels=labels or {}, removed=removed)

    def revoke(self, device: str) -> EnrolledDevice:
        """Revoke a device and its certificates, such as a stolen board's: a running `Fleet.serve` ends its connection.

        Raises:
            UsageError: `device-unknown`; `repo-invalid`.
        """
        return devices.revoke(self.path, device)

    def replace(
        self,
        device: str,
        *,
        output: Path | str,
        broker: str | None = None,
        ca: Path | None = None,
        password_file: Path | None = None,
        store: str | None = None,
    ) -> Enrolled:
        """Make a new folder for a device, for another board in the place of a broken or revoked one.

        Labels and groups stay. Arguments and errors are those of `enroll`, and `device-unknown`.
        """
        files = DeviceFiles(ca=ca, password_file=password_file, store=store)
        return devices.replace(self.path, device, broker_url=broker, out_dir=Path(output), files=files)

    def deploy(
        self,
        name: str,
        version: str | None = None,
        *,
        to: str = EVERYONE,
        percent: float = 100.0,
        activate_after: datetime | None = None,
        again: bool = False,
        pin: bool = False,
        allow_empty: bool = False,
        dry_run: bool = False,
    ) -> Deployed:
        """Sign that devices run a release. A running `Fleet.serve` announces it.

        Args:
            name: of the model.
            version: None takes the version that was published last and isn't withdrawn.
            to: selects devices by labels and ids, as `"site=farm-7,board!=rpi4"`; by default all.
            percent: of the devices selected, above 0 and at most 100.
            activate_after: devices fetch the release now and serve it from this time on.
            again: devices that failed at the same deployment, or rolled it back, try it once more.
            pin: the deployment holds against all that aren't pinned, also later ones, until `unpin`.
            allow_empty: permit a selector that matches no enrolled device.
            dry_run: change nothing, and return what would be deployed.

        Raises:
            UsageError: `release-unknown`; `release-withdrawn`; `usage`, for a bad percentage or selector, or
                one that matches no device; `repo-invalid`.

        >>> Repository.open("farms").deploy("minilm", to="site=farm-7").devices
        ('barn-1',)
        """
        return deployments.deploy(
            self.path,
            name,
            version,
            selector=to,
            percent=percent,
            activate_after=activate_after,
            again=again,
            pin=pin,
            allow_empty=allow_empty,
            dry_run=dry_run,
        )

    def saved_selectors(self) -> dict[str, str]:
        """Return the saved selectors by name.

        Raises:
            UsageError: `repo-invalid`.
        """
        return saved_selectors.saved(layout.opened(self.path))

    def save_selector(self, name: str, text: str | None) -> dict[str, str]:
        """Save a selector under a name, or remove it with None; return all. Signed deployments keep theirs.

        Raises:
            UsageError: `usage`, for a bad name or selector, or when there is none to remove; `repo-invalid`.

        >>> Repository.open("farms").save_selector("barns", "site in (farm-7,farm-8)")
        {'barns': 'site in (farm-7,farm-8)'}
        """
        return saved_selectors.save(self.path, name, text)

    def select(self, *to: str, devices: Sequence[str] = ()) -> str:
        """Return one selector for devices that all of several select, as `deploy` takes it.

        Args:
            to: selectors, or names of saved ones: `"@barns"`.
            devices: ids, of which a device must be one; by default any.

        Raises:
            UsageError: `usage`, when one is malformed or not saved; `repo-invalid`.

        >>> Repository.open("farms").select("site=farm-7", "!old", devices=["barn-1"])
        'device=barn-1,!old,site=farm-7'
        """
        return str(saved_selectors.expand(layout.opened(self.path), to, devices=devices))

    def undeploy(self, name: str, *, to: str = EVERYONE) -> Deployed:
        """Sign that devices stop serving a model and free its disk. Pinned devices keep it.

        Args:
            name: of the model.
            to: selects devices by labels and ids; by default all.

        Raises:
            UsageError: `usage`, for a model without a deployment, or a selector that matches no device; `repo-invalid`.

        >>> Repository.open("farms").undeploy("minilm").devices
        ('barn-1',)
        """
        return deployments.undeploy(self.path, name, selector=to)

    def unpin(self, name: str, *, to: str = EVERYONE) -> tuple[str, ...]:
        """End pinned deployments of a model, and return their ids; its other deployments hold again.

        Args:
            name: of the model.
            to: the pins of which it selects all devices; by default all pins.

        Raises:
            UsageError: `usage`, when there is no such pin; `repo-invalid`.
        """
        return deployments.unpin(self.path, name, selector=to)

    def refresh(self) -> list[Refreshed]:
        """Renew the signatures that expire first; `Fleet.serve` does so by itself.

        Raises:
            UsageError: `repo-invalid`, also when the fleet key is missing.
        """
        return renewal.refresh(self.path)

    def keys(self) -> list[KeyGroup]:
        """List the keys that devices trust, how many must sign, and how many are in the folder.

        Raises:
            UsageError: `repo-invalid`.

        >>> [(it.group, it.threshold) for it in Repository.open("farms").keys()]
        [('release', 1), ('fleet', 1)]
        """
        return rotation.groups(self.path)

    def rotate(self, group: str, new: NewKeys) -> KeyGroup:
        """Replace the keys of a group; devices follow by themselves.

        Args:
            group: `release` or `fleet`.
            new: the keys that the group has from now on.

        Raises:
            UsageError: `usage`, when fewer keys are named than must sign; `repo-invalid`, when keys that must sign are
                missing. Nothing is changed then.
        """
        return rotation.rotate(self.path, group, new)

    def export_site(self, site: str, output: Path | str) -> SiteCopy:
        """Copy the releases that the devices of one site run to a folder, for an update without a network.

        Args:
            site: the value of the devices' label `site`.
            output: a folder that is new, empty, or has an earlier copy.

        Raises:
            UsageError: `usage`, when no device has that label or the folder can't be used; `repo-invalid`.
            RejectedError: `digest-mismatch`, when a chunk in the repository is lost or damaged.
        """
        return offline.export_site(self.path, site, Path(output))
