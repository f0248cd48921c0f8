"""A call: what an operator may ask of one device, and the device's reply. Topics and bytes: `messages`.

A call names a bundle by its manifest's digest and carries nothing that is run: the device looks among the verified
bundles that it holds. Strictly decoded, and all that it can cost is bounded. The same replies come from a program that
is started here or over ssh (`edgeml_runtime.bench.child`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from edgeml_core.card import Energy, Latency
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError, UsageError

#: How long a bench may run after the warm-up.
SECONDS_MAX: Final = 120.0
SECONDS: Final = 3.0
#: What a call may take in all: slow models overrun the seconds asked, since each has its fewest runs.
TIMEOUT_S: Final = 600.0
MESSAGE_MAX_CHARS: Final = 500
#: Whether the golden outputs are reproduced; or how fast the model is.
Kind = Literal["verify", "bench"]
_FAMILIES: Final[dict[str, type[EdgemlError]]] = {kind.__name__: kind for kind in (UsageError, RejectedError)}


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a bundle is benched.

    Args:
        case: which golden case's input is run, from 1: export times the first.
        threads: instead of the manifest's number; never more than the cores that the process may use.
        seconds: how long to run it after the warm-up.
    """

    case: Annotated[int, Meta(ge=1, le=10_000)] = 1
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    seconds: Annotated[float, Meta(gt=0, le=SECONDS_MAX)] = SECONDS


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of a device.

    `session` is that of the device's state that the caller has seen: what waited at the broker while the device was
    away, or comes twice, is of another one and isn't answered.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    session: Annotated[int, Meta(ge=1)]
    kind: Kind
    manifest_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    timing: Timing = Timing()


class HostLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How busy the host was during a benchmark. Figures are None where the system doesn't report them.

    Args:
        other_cores: cores' worth of work by other processes.
        steal: share of the CPU time that went to other guests of the same hypervisor.
        drift: change from the first half's median to the second's, as a share.
        spread: distance of the quartiles, as a share of the median.
        doubts: a sentence for each bound that was passed; empty means quiet.
    """

    other_cores: float | None
    steal: float | None
    drift: float
    spread: float
    doubts: tuple[str, ...]

    @property
    def quiet(self) -> bool:
        """Whether nothing speaks against the figures."""
        return not self.doubts


class BenchmarkResult(msgspec.Struct, frozen=True, kw_only=True):
    """Speed, memory and energy of one bundle. `throughput_per_s` counts inferences in sequence, batch 1."""

    latency: Latency
    load_ms: float
    first_inference_ms: float
    throughput_per_s: float
    peak_rss_bytes: int
    energy: Energy
    host: HostLoad


class Reproduced(msgspec.Struct, frozen=True, kw_only=True):
    """How close the golden outputs came at worst, within the bundle's bounds."""

    min_cosine: float
    max_abs: float


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The error that came instead; `family` is the name of its class."""

    family: str
    code: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: EdgemlError) -> Refused:
        """An error, ready to be sent."""
        message = error.message[:MESSAGE_MAX_CHARS]
        return cls(family=type(error).__name__, code=error.code, message=message, hint=error.hint)

    def error(self, where: str = "") -> EdgemlError:
        """The same error here; `where` it came from stands before its message."""
        return _FAMILIES.get(self.family, DeviceError)(self.code, f"{where}{self.message}", self.hint)


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"benchmark": "trial"}):
    """The answer to the call with `id`: the CPU as it calls itself, its runtime's version, and what came of it."""

    id: str = ""
    cpu: str = ""
    runtime: str = ""
    threads: int = 0
    reproduced: Reproduced | None = None
    benchmark: BenchmarkResult | None = None
    refused: Refused | None = None
