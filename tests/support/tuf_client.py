"""A TUF client around the agent's verifier, with HTTP instead of MQTT: what public conformance suites can drive.

    python tests/support/tuf_client.py --metadata-dir DIR init ROOT
    python tests/support/tuf_client.py --metadata-dir DIR --metadata-url URL refresh
    python tests/support/tuf_client.py --metadata-dir DIR --metadata-url URL --target-name PATH --target-base-url URL
        --target-dir DIR download

Exit code 0, or 1 when anything was refused or failed. DIR has what is trusted, as `root.json`, `timestamp.json` and so
on; the suite takes each `*.json` in it for a trusted role, so all else lies in folders below it. `--target-name` may be
given several times. Source of the interface: the file CLIENT-CLI.md of theupdateframework/tuf-conformance.
Delegations are ignored, as the agent ignores them: `tuf_client.py.xfails` lists the tests that follow them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher

from edgeml_agent.trust.time_floor import utc_now
from edgeml_agent.trust.tuf_client import CURRENT, TufClient
from edgeml_core.errors import EdgemlError

#: The root that a device is enrolled with.
ANCHOR: Final = "anchor/root.json"
JUDGED: Final = "judged"
ROLES: Final = ("root", "timestamp", "snapshot", "targets")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = _parser().parse_args(arguments)
    try:
        given.command(given)
    except EdgemlError as error:
        sys.stderr.write(f"error[{error.code}]: {error.message}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A TUF client around edgeml's verifier.")
    for name in ("--metadata-dir", "--target-dir"):
        parser.add_argument(name, type=Path)
    for name in ("--metadata-url", "--target-base-url"):
        parser.add_argument(name, default="")
    parser.add_argument("--target-name", action="append", default=[])
    commands = parser.add_subparsers(required=True)
    init = commands.add_parser("init")
    init.add_argument("root", type=Path)
    init.set_defaults(command=_init)
    commands.add_parser("refresh").set_defaults(command=_refreshed)
    commands.add_parser("download").set_defaults(command=_download)
    return parser


def _init(given: argparse.Namespace) -> None:
    for name in (ANCHOR, "root.json"):
        (given.metadata_dir / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(given.root, given.metadata_dir / name)


def _refreshed(given: argparse.Namespace) -> TufClient:
    """The repository after a refresh; what was right is in the metadata folder, also when the rest was refused."""
    folder, urls = given.metadata_dir / JUDGED, (given.metadata_url, given.target_base_url)
    judged = TufClient("repository", folder, urls=urls, fetcher=Urllib3Fetcher(), now=utc_now)
    try:
        judged.refresh((given.metadata_dir / ANCHOR).read_bytes())
    finally:
        for path in (folder / CURRENT / f"{role}.json" for role in ROLES):
            if path.is_file():
                shutil.copyfile(path, given.metadata_dir / path.name)
    return judged


def _download(given: argparse.Namespace) -> None:
    judged = _refreshed(given)
    for name in given.target_name:
        target, path = judged.find_target(name), given.target_dir / quote(name, safe="")
        if target is None:
            raise EdgemlError("release-unknown", f"{name} isn't listed")
        try:
            target.verify_length_and_hashes(path.read_bytes())
        except (OSError, LengthOrHashMismatchError):
            path.write_bytes(judged.download(target))


if __name__ == "__main__":
    sys.exit(main())
