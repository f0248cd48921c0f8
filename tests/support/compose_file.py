"""The services of docker/compose.yaml as processes: their commands, environment and mounts, without containers.

What an image adds (its entry point and command) is read from its Dockerfile. Networks and health checks are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-[^}]*)?\}")
_IMAGE_COMMANDS: Final = {
    "docker.io/library/eclipse-mosquitto:2": ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]
}


@dataclass(frozen=True)
class Service:
    """One service: its command, its variables and its mounts by the path in the container."""

    command: list[str]
    environment: dict[str, str]
    user: str
    mounts: dict[str, Path]

    def outside(self, text: str) -> str:
        """Replace the paths of mounts in the container by those outside, the longest first."""
        for inside in sorted(self.mounts, key=len, reverse=True):
            text = re.sub(rf"{re.escape(inside)}(?=[/\s\"]|$)", str(self.mounts[inside]), text)
        return text


def services(path: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """Read a compose file.

    Args:
        path: the file; mounts are relative to its folder.
        variables: values for `${NAME}`.
    """
    text = _VARIABLE.sub(lambda found: variables.get(found[1], ""), path.read_text())
    return {name: _service(path.parent, given) for name, given in yaml.safe_load(text)["services"].items()}


def _service(folder: Path, given: dict) -> Service:
    mounts = {inside: folder / outside for outside, inside in (it.split(":")[:2] for it in given["volumes"])}
    build = given.get("build")
    command = _IMAGE_COMMANDS[given["image"]] if build is None else _of_image(folder, build, given.get("command"))
    return Service(command=command, environment=given.get("environment", {}), user=given["user"], mounts=mounts)


def _of_image(folder: Path, build: dict[str, str], command: list[str] | None) -> list[str]:
    lines = (folder / build["context"] / build["dockerfile"]).read_text().splitlines()
    given = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
    return [*json.loads(given["ENTRYPOINT"]), *(command or json.loads(given["CMD"]))]
