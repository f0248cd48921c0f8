"""A bundle verified or benchmarked on another machine by the system's ssh, which copies its files there.

That machine needs `edgeml-deploy[agent]`. The copies lie in a temporary folder, which is removed at the end. Keys,
known hosts and host names are left to ssh; it never prompts for a password.
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

from edgeml import child_process
from edgeml.child_process import ExecutionSite
from edgeml.verify import verification
from edgeml.verify.verification import Verification
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Manifest
from edgeml_runtime.verify.child import encode

#: Seconds until ssh gives up to connect; a board on a slow radio link takes some.
CONNECT_TIMEOUT_S: Final = 15
#: Exit code of ssh when it can't connect, or the connection breaks.
LOST_CODE: Final = 255
#: Folder of the bundle's files there, below the program's working folder.
FOLDER: Final = "bundle"
_PYTHON: Final = "python3"
_REQUEST: Final = "request"
_SCRIPT: Final = (
    'folder=$(mktemp -d) && trap \'rm -rf "$folder"\' EXIT && tar -x -C "$folder" && cd "$folder" && '
    f"{{python}} -m {{program}} < {_REQUEST}"
)
Reply = TypeVar("Reply", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class RemoteTask:
    """A bundle's files, and a program of edgeml with its request, to send to another machine."""

    folder: Path
    manifest: Manifest
    program: str
    request: bytes


def verify(folder: Path, manifest: Manifest, on: str) -> Verification:
    """Reproduce a bundle's golden outputs on the machine at `ssh://[USER@]HOST[:PORT][/PATH/OF/PYTHON]`.

    Args:
        folder: holds the files that the manifest names.
        manifest: the bundle's.
        on: the machine.

    Raises:
        UsageError: `usage`, when `on` is no such address.
        TransportError: `host-unreachable`.
        DeviceError: `golden-mismatch`, `probe-crashed`, or the runtime there failed.
    """
    program, request = f"{verification.PROGRAM} {FOLDER}", encode(manifest, ())
    task = RemoteTask(folder=folder, manifest=manifest, program=program, request=request)
    return verification.run(_site(on, task), manifest, _packed(task))


def run(on: str, task: RemoteTask, reply: type[Reply]) -> Reply:
    """Run a program on the machine at `on` and return its reply; raises as `verify` does."""
    return child_process.run(_site(on, task), _packed(task), reply)


def _site(on: str, task: RemoteTask) -> ExecutionSite:
    address = _address(on)
    return ExecutionSite(
        name=str(address.hostname),
        command=_command(address, task.program),
        lost_code=LOST_CODE,
        hint="pip install 'edgeml-deploy[agent]' on that machine, and name its Python: ssh://HOST/PATH/OF/PYTHON",
    )


def _address(on: str) -> SplitResult:
    invalid = UsageError("usage", f"{on!r} is no place to run a bundle", "name local, ssh://HOST or device:ID")
    try:
        address = urlsplit(on)
        host, _ = (address.hostname or "-", address.port)  # reading the port checks it
    except ValueError as error:
        raise invalid from error
    if address.scheme != "ssh" or host.startswith("-") or address.query or address.fragment:
        raise invalid
    return address


def _command(address: SplitResult, program: str) -> list[str]:
    options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
    if address.username:
        options += ["-l", address.username]
    if address.port:
        options += ["-p", str(address.port)]
    script = _SCRIPT.format(python=shlex.quote(address.path or _PYTHON), program=program)
    return ["ssh", *options, "--", str(address.hostname), f"sh -c {shlex.quote(script)}"]


def _packed(task: RemoteTask) -> bytes:
    """Pack the request and the files that the manifest names into one tar stream."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(_REQUEST)
        member.size = len(task.request)
        archive.addfile(member, io.BytesIO(task.request))
        for entry in task.manifest.files:
            archive.add(task.folder / entry.path, f"{FOLDER}/{entry.path}")
    return stream.getvalue()
