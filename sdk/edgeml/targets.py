"""Target profiles on the disk: those packaged with edgeml, else those beside its source; or any file that is named.

`edgeml_core.profile` defines the content of a profile and checks it.
"""

from __future__ import annotations

import difflib
import math
import os
import platform
import re
from pathlib import Path
from typing import Final

from edgeml_core import profile as profiles
from edgeml_core.errors import UsageError
from edgeml_core.profile import Profile

SUFFIX: Final = ".toml"
_PACKAGED: Final = Path(__file__).parent / "targets"
_BESIDE_SOURCE: Final = Path(__file__).parents[2] / "targets"
_CPUINFO: Final = Path("/proc/cpuinfo")
#: Of 1: a name this much like a target's is a misspelling. `pi4` is 0.86 like `rpi4`; `rpi3`, another board, 0.75.
_LIKENESS_MIN: Final = 0.8
#: Characters of an unknown name in a message.
_NAME_SHOWN_CHARS: Final = 80
_FLAGS: Final = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)


def load(name: str) -> Profile:
    """Load the profile called `name`, or the profile in the file `name` when it ends in `.toml`.

    Raises:
        UsageError: `target-unknown`, with the closest names; `target-invalid`, naming every problem.
    """
    is_file = name.endswith(SUFFIX)
    path = Path(name) if is_file else folder() / f"{name}{SUFFIX}"
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if is_file:
            reason = error.strerror if isinstance(error, OSError) else error
            hint = f"check the path, or name one of {', '.join(_names())}"
            raise UsageError("target-unknown", f"the target's file {name!r} can't be read: {reason}", hint) from error
        raise _unknown(name) from None
    return profiles.parse(content)


def _unknown(name: str) -> UsageError:
    """Name the target that is a likely misspelling, or all that there are."""
    plain = {_plain(known): known for known in _names()}
    several = [plain[_plain(part)] for part in name.split(",") if _plain(part) in plain]
    if "," in name and several:
        hint = f"give each an option of its own: {' '.join(f'--target {it}' for it in several)}"
        return UsageError("target-unknown", f"{name[:_NAME_SHOWN_CHARS]!r} is no single target", hint)
    close = difflib.get_close_matches(_plain(name), plain, n=2, cutoff=_LIKENESS_MIN)
    hint = (
        f"did you mean {' or '.join(plain[it] for it in close)}?"
        if close
        else f"take one of {', '.join(_names())}, or name a file.toml of your own; docs/targets.md describes it"
    )
    return UsageError("target-unknown", f"there is no target {name[:_NAME_SHOWN_CHARS]!r}", hint)


def _plain(name: str) -> str:
    """Reduce a name to what people agree on: no case, no separators, `pi` for a Raspberry Pi."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).replace("raspberrypi", "rpi")


def all() -> list[Profile]:  # noqa: A001 -- read as `targets.all()`
    """Load every profile that comes with edgeml, by name.

    Raises:
        UsageError: `target-invalid`, when one of them is damaged.
    """
    return [load(name) for name in _names()]


def this_machine() -> Profile:
    """Find the profile for this machine, by the features of its CPU and the size of its memory.

    Raises:
        UsageError: `target-unknown`, when no profile suits this CPU.
    """
    return suiting(platform.machine(), cpu_features(), _ram_bytes())


def suits_this_machine(profile: Profile) -> bool:
    """Check whether `profile` is the profile for this machine."""
    try:
        return this_machine().name == profile.name
    except UsageError:
        return False


def suiting(arch: str, features: frozenset[str], ram_bytes: int) -> Profile:
    """Find the profile for a CPU: of the profiles whose needs it meets, the most demanding, then the closest in memory.

    Raises:
        UsageError: `target-unknown`, when there is none.
    """
    suited = [it for it in all() if it.cpu.arch == arch and features.issuperset(it.cpu.needs)]
    if not suited:
        hint = f"write a profile for it, after the example of {', '.join(_names())}"
        raise UsageError("target-unknown", f"no target profile suits this {arch} CPU", hint)
    return min(suited, key=lambda it: (-len(it.cpu.needs), abs(math.log(it.memory.ram_bytes / ram_bytes))))


def folder() -> Path:
    """Find the folder of the profiles."""
    return _PACKAGED if _PACKAGED.is_dir() else _BESIDE_SOURCE


def cpu_features() -> frozenset[str]:
    """Read the features of this CPU as Linux names them; empty where Linux lists none."""
    found = _FLAGS.search(_CPUINFO.read_text()) if _CPUINFO.exists() else None
    return frozenset(found[1].split()) if found else frozenset()


def _names() -> list[str]:
    return sorted(path.stem for path in folder().glob(f"*{SUFFIX}"))


def _ram_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
