"""The probe's child process: `python -m edgeml_agent.probe FOLDER` tries the bundle in FOLDER and prints one JSON line.

Loads the model with the installed runtime, runs the golden inputs, compares. A model that crashes, hangs or eats all
memory takes this process along and nothing else: the kernel is told to choose it first, and an alarm ends it if its
parent is gone.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec

from edgeml_agent.ports import Probed
from edgeml_core import golden
from edgeml_core import manifest as manifests
from edgeml_core.errors import DeviceError, EdgemlError
from edgeml_core.manifest import MANIFEST_NAME
from edgeml_runtime import engines
from edgeml_runtime import golden as golden_check

#: The parent ends the probe earlier; this is for a parent that was killed.
ALARM_S: Final = 600
_CHOOSE_FIRST: Final = "1000"


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why the probe failed; `family` is the name of the error's class."""

    family: str
    code: str
    message: str
    hint: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the child prints: one of the two."""

    probed: Probed | None = None
    refused: Refused | None = None


def probe(folder: Path) -> Probed:
    """Try the bundle whose manifest and files lie in `folder`.

    Raises:
        RejectedError: `bundle-format`. DeviceError: `golden-mismatch`, `runtime-failed` or `runtime-missing`.
    """
    manifest = manifests.decode((folder / MANIFEST_NAME).read_bytes())
    cases = golden.decode((folder / manifest.golden.path).read_bytes())
    session = engines.load(folder / manifest.model, manifest)
    try:
        found = golden_check.check(session, manifest, cases)
    finally:
        session.close()
    return Probed(
        min_cosine=found.min_cosine,
        max_abs=found.max_abs,
        first_ms=found.first_ms,
        median_ms=found.median_ms,
        peak_rss_bytes=_peak_rss_bytes(),
    )


def _peak_rss_bytes() -> int:
    """From /proc: getrusage would count what the parent had at the fork."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _be_expendable() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(ALARM_S)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_CHOOSE_FIRST)


def main(arguments: list[str]) -> int:
    """Probe the one folder named and print the outcome."""
    _be_expendable()
    try:
        outcome, code = Outcome(probed=probe(Path(arguments[0]))), 0
    except EdgemlError as error:
        refused = Refused(family=type(error).__name__, code=error.code, message=error.message, hint=error.hint)
        outcome, code = Outcome(refused=refused), error.exit_code
    except OSError as error:
        refused = Refused(family=DeviceError.__name__, code="store-failed", message=str(error), hint="check the disk")
        outcome, code = Outcome(refused=refused), DeviceError.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
