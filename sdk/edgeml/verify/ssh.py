"""A bundle run on another machine by the system's ssh: its files go there, and edgeml's own code runs there.

That machine needs `edgeml-deploy[agent]`; what is copied lies in a temporary folder that is removed. Keys, known hosts
and names are ssh's own business; it never asks for a password.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from edgeml.verify import child
from edgeml.verify.child import ExecutionSite, Proof
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Manifest
from edgeml_runtime.verify import child as verify_child

CONNECT_TIMEOUT_S: Final = 15
#: ssh's own exit code when there is no connection, or it broke.
LOST_CODE: Final = 255
#: Where the bundle's files lie there, seen from where the program starts.
FOLDER: Final = "bundle"
_PYTHON: Final = "python3"
_REQUEST: Final = "request"
_SCRIPT: Final = (
    'folder=$(mktemp -d) && trap \'rm -rf "$folder"\' EXIT && tar -x -C "$folder" && cd "$folder" && '
    f"{{python}} -m {{program}} < {_REQUEST}"
)
Answer = TypeVar("Answer", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class RemoteTask:
    """What is sent there: a bundle's files, and a program of ours with its request."""

    folder: Path
    manifest: Manifest
    program: str
    request: bytes


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
    program, request = f"edgeml_runtime.verify.child {FOLDER}", verify_child.encode(manifest, ())
    errand = RemoteTask(folder=folder, manifest=manifest, program=program, request=request)
    return child.run(_place(on, errand), manifest, _packed(errand))


def ask(on: str, errand: RemoteTask, kind: type[Answer]) -> Answer:
    """The answer of a program on the machine at `on`; raises as `prove` does."""
    return child.ask(_place(on, errand), _packed(errand), kind)


def _place(on: str, errand: RemoteTask) -> ExecutionSite:
    address = _address(on)
    return ExecutionSite(
        name=str(address.hostname),
        how="measured",
        command=_command(address, errand.program),
        lost_code=LOST_CODE,
        hint="pip install 'edgeml-deploy[agent]' on that machine, and name its Python: ssh://HOST/PATH/OF/PYTHON",
    )


def _address(on: str) -> SplitResult:
    refused = UsageError("usage", f"{on!r} is no such place", "take local, ssh://HOST or device:ID")
    try:
        address = urlsplit(on)
        named = (address.hostname or "-", address.port)
    except ValueError as error:
        raise refused from error
    if address.scheme != "ssh" or named[0].startswith("-") or address.query or address.fragment:
        raise refused
    return address


def _command(address: SplitResult, program: str) -> list[str]:
    options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
    if address.username:
        options += ["-l", address.username]
    if address.port:
        options += ["-p", str(address.port)]
    script = _SCRIPT.format(python=shlex.quote(address.path or _PYTHON), program=program)
    return ["ssh", *options, "--", str(address.hostname), f"sh -c {shlex.quote(script)}"]


def _packed(errand: RemoteTask) -> bytes:
    """One stream with the request and the bundle's files, whatever else lies in the folder left out."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(_REQUEST)
        member.size = len(errand.request)
        archive.addfile(member, io.BytesIO(errand.request))
        for entry in errand.manifest.files:
            archive.add(errand.folder / entry.path, f"{FOLDER}/{entry.path}")
    return stream.getvalue()
