"""A bundle proven on another machine by the system's ssh: its files go there, and edgeml's own code runs there.

That machine needs `edgeml[agent]`; what is copied lies in a temporary folder that is removed. Keys, known hosts and
names are ssh's own business; it never asks for a password.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from edgeml.proof import child
from edgeml.proof.child import Place, Proof
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Manifest
from edgeml_runtime import proof

CONNECT_TIMEOUT_S: Final = 15
#: ssh's own exit code when there is no connection, or it broke.
LOST_CODE: Final = 255
_PYTHON: Final = "python3"
_REQUEST: Final = "request"
_FOLDER: Final = "bundle"
_SCRIPT: Final = (
    'folder=$(mktemp -d) && trap \'rm -rf "$folder"\' EXIT && tar -x -C "$folder" && cd "$folder" && '
    f"{{python}} -m edgeml_runtime.proof {_FOLDER} < {_REQUEST}"
)


def prove(folder: Path, manifest: Manifest, on: str) -> Proof:
    """Reproduce a bundle's golden outputs on the machine at `ssh://[USER@]HOST[:PORT][/PATH/OF/PYTHON]`.

    Args:
        folder: holds the files that the manifest names.
        manifest: the bundle's.
        on: the machine.

    Raises:
        UsageError: `usage`, when `on` is no such address. TransportError: `host-unreachable`.
        DeviceError: `golden-mismatch`, `probe-crashed`, or the runtime there failed.
    """
    address = _address(on)
    place = Place(
        name=str(address.hostname),
        how="measured",
        command=_command(address),
        lost_code=LOST_CODE,
        hint="pip install 'edgeml[agent]' on that machine, and name its Python: ssh://HOST/PATH/OF/PYTHON",
    )
    return child.run(place, manifest, _packed(folder, manifest))


def _address(on: str) -> SplitResult:
    refused = UsageError("usage", f"{on!r} is no place to verify on", "take local, emulated or ssh://HOST")
    try:
        address = urlsplit(on)
        named = (address.hostname or "-", address.port)
    except ValueError as error:
        raise refused from error
    if address.scheme != "ssh" or named[0].startswith("-") or address.query or address.fragment:
        raise refused
    return address


def _command(address: SplitResult) -> list[str]:
    options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
    if address.username:
        options += ["-l", address.username]
    if address.port:
        options += ["-p", str(address.port)]
    script = _SCRIPT.format(python=shlex.quote(address.path or _PYTHON))
    return ["ssh", *options, "--", str(address.hostname), f"sh -c {shlex.quote(script)}"]


def _packed(folder: Path, manifest: Manifest) -> bytes:
    """One stream with the request and the bundle's files, whatever else lies in the folder left out."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        request = proof.encode(manifest, ())
        member = tarfile.TarInfo(_REQUEST)
        member.size = len(request)
        archive.addfile(member, io.BytesIO(request))
        for entry in manifest.files:
            archive.add(folder / entry.path, f"{_FOLDER}/{entry.path}")
    return stream.getvalue()
