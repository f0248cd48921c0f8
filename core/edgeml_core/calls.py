"""Calls: an operator's request to one device, and the device's reply. Topics and encoding: `messages`.

A call brings no code. It names a bundle by its manifest's digest, and the device looks among the verified bundles that
it has; or it asks for a restart, the newest log lines or the device's own checks. Decoding is strict, and every cost is
bounded. A child process here or over ssh sends the same replies
(`edgeml_runtime.bench.child`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from edgeml_core.card import Energy, Latency
from edgeml_core.errors import DeviceError, EdgemlError, RejectedError, UsageError

#: Seconds that a benchmark may run after the warm-up, at most and by default.
SECONDS_MAX: Final = 120.0
SECONDS: Final = 3.0
#: Seconds for a whole call: slow models exceed the requested seconds, since each has its fewest runs.
TIMEOUT_S: Final = 600.0
#: Characters of an error message in a reply.
MESSAGE_MAX_CHARS: Final = 500
#: Log lines of a reply, at most and by default.
LINES_MAX: Final = 500
LINES: Final = 100
#: Bytes of all log lines of a reply, as JSON: with the rest they fit into one message.
LOG_MAX_BYTES: Final = 48 * 1024
#: Reproduce the golden outputs, measure the speed, run `edgeml-agent doctor`, return the newest log lines, or restart.
Kind = Literal["verify", "bench", "doctor", "logs", "restart"]
#: The kinds that run a bundle.
OF_BUNDLES: Final = frozenset({"verify", "bench"})
#: Outcome of a check.
Status = Literal["ok", "warning", "failed"]
_FAMILIES: Final[dict[str, type[EdgemlError]]] = {kind.__name__: kind for kind in (UsageError, RejectedError)}


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a benchmark.

    Args:
        case: number of the golden case whose input is run, from 1: export times the first.
        threads: instead of the manifest's number; never more than the cores that the process may use.
        seconds: time to run after the warm-up.
    """

    case: Annotated[int, Meta(ge=1, le=10_000)] = 1
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    seconds: Annotated[float, Meta(gt=0, le=SECONDS_MAX)] = SECONDS


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to a device.

    `session` is that of the device's state that the caller has seen. A call of another session isn't answered: it
    waited at the broker while the device was away, or came twice.

    Args:
        id: random; the reply has it.
        session: see above.
        kind: the request.
        manifest_sha256: names the bundle to run; empty for a kind that runs none.
        timing: of a benchmark.
        lines: number of log lines.
    """

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    session: Annotated[int, Meta(ge=1)]
    kind: Kind
    manifest_sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    timing: Timing = Timing()
    lines: Annotated[int, Meta(ge=1, le=LINES_MAX)] = LINES

    def __post_init__(self) -> None:
        """Check that a call which runs a bundle names one, and no other does."""
        if (self.kind in OF_BUNDLES) != bool(self.manifest_sha256):
            raise ValueError(f"a call for {self.kind} names {'a' if self.manifest_sha256 else 'no'} bundle")


class HostLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How busy the host was during a benchmark. Figures are None where the system doesn't report them.

    Args:
        other_cores: work of other processes, in cores.
        steal: fraction of the CPU time that went to other guests of the same hypervisor.
        drift: change from the first half's median to the second's, as a fraction.
        spread: distance of the quartiles, as a fraction of the median.
        doubts: a sentence for each exceeded bound; empty means quiet.
    """

    other_cores: float | None
    steal: float | None
    drift: float
    spread: float
    doubts: tuple[str, ...]

    @property
    def quiet(self) -> bool:
        """Whether no bound was exceeded."""
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
    """The worst distance from the golden outputs, within the bundle's bounds."""

    min_cosine: float
    max_abs: float


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """An error in place of a result; `family` is the name of its class."""

    family: str
    code: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: EdgemlError) -> Refused:
        """Return an error in the form in which it is sent."""
        message = error.message[:MESSAGE_MAX_CHARS]
        return cls(family=type(error).__name__, code=error.code, message=message, hint=error.hint)

    def error(self, where: str = "") -> EdgemlError:
        """Return the error as an exception, with `where` it came from before its message."""
        return _FAMILIES.get(self.family, DeviceError)(self.code, f"{where}{self.message}", self.hint)


class Check(msgspec.Struct, frozen=True):
    """The result of one check. `remedy` is one imperative sentence, empty when the status is ok."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"benchmark": "trial"}):
    """The answer to the call with `id`: the CPU as it calls itself, its runtime's version, and what came of it.

    A call for a restart is answered before the agent ends; its reply has nothing but the id.
    """

    id: str = ""
    cpu: str = ""
    runtime: str = ""
    threads: int = 0
    reproduced: Reproduced | None = None
    benchmark: BenchmarkResult | None = None
    checks: tuple[Check, ...] = ()
    log: tuple[str, ...] = ()
    refused: Refused | None = None
