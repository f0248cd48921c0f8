"""`Bundle`: one `.edgeml` file on the host's disk, with the measurements beside it.

`edgeml_core.bundle` has the file format. Opening and reading a bundle needs the base install alone. Running it imports
the runtime, and asking a device imports MQTT, when one of these methods is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from edgeml_core import decoding
from edgeml_core.bundle import BundleReader
from edgeml_core.calls import SECONDS, Timing
from edgeml_core.card import MEASUREMENTS_SUFFIX, Accuracy, Card, Measurements, TargetVerification, Verified
from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import Manifest

if TYPE_CHECKING:
    from edgeml.bench import Benchmark
    from edgeml.fleet.call import DeviceConnection
    from edgeml.verify import Verification
    from edgeml_runtime.tasks import Answer

#: The name of this machine, for `Bundle.verify` and `Bundle.bench`.
LOCAL: Final = "local"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One bundle file.

    Args:
        path: the `.edgeml` file.
        manifest: the description that is signed with a release.
        manifest_sha256: the identity of the release.
        size_bytes: of the file.

    >>> bundle.card.recipe
    'dynamic-s8'
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str
    size_bytes: int

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Read the manifest of a bundle file. No model is loaded.

        Raises:
            UsageError: `usage`, when the file can't be read. RejectedError: `bundle-format`.

        >>> Bundle.open(bundle.path) == bundle
        True
        """
        path = Path(path)
        with opened(path) as reader:
            return cls(
                path=path,
                manifest=reader.manifest,
                manifest_sha256=reader.manifest_sha256,
                size_bytes=path.stat().st_size,
            )

    @property
    def card(self) -> Card:
        """The result card: recipe, size, parity, accuracy and every candidate that was tried."""
        return self.manifest.card

    @cached_property
    def measurements(self) -> Measurements | None:
        """The figures of the host that exported the bundle, from the file beside it; None where there is none.

        Raises:
            RejectedError: `document-format` when they are malformed, `digest-mismatch` when they are another bundle's.
        """
        return measurements(self.path, self.manifest_sha256)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the card, and one for a bundle that is slower than fp32 on this machine."""
        card, measured = self.card, self.measurements
        if card.recipe == "none" or measured is None or measured.speedup >= 1:
            return card.warnings
        return (*card.warnings, f"on this CPU it runs at {measured.speedup:.2f} times the speed of fp32")

    @property
    def verifications(self) -> tuple[TargetVerification, ...]:
        """The results on each CPU: first the CPU that exported the bundle, then those on the card."""
        known = {it.cpu for it in self.card.verified}
        others = [it for it in (self.measurements.verified_on if self.measurements else ()) if it.cpu not in known]
        return (*(_verification(it, self.card.accuracy) for it in others), *self.card.verified)

    def run(self, inputs: object) -> list[Answer]:
        """Answer one request, or each of a list, with the code that runs on a device.

        The model is loaded for this call: pass a list to answer many requests with one load.

        Args:
            inputs: a request as `POST /v1/models/NAME/predict` takes it, such as `{"text": "hello"}`, or a list of
                them. Tensors under `"inputs"` are nested lists or NumPy arrays; docs/bundle-format.md has their shapes.

        Returns:
            One answer for each request, in order.

        Raises:
            UsageError: `input-invalid`. RejectedError: the bundle is malformed.
            DeviceError: `runtime-missing` or `runtime-failed`.

        >>> [answer] = bundle.run({"text": "a cow in a field"})
        >>> len(answer["embedding"])
        384
        """
        from edgeml.inference import run  # noqa: PLC0415 - imports NumPy and the runtimes

        return run(self.path, inputs)

    def verify(self, on: str = LOCAL, *, fleet: DeviceConnection | None = None) -> Verification:
        """Check every byte of the bundle and reproduce its golden outputs.

        Args:
            on: `local`; `emulated`, for the CPU of the bundle's target; `ssh://HOST`; or `device:ID`.
            fleet: how `device:ID` is reached: `Fleet.connection` or `Fleet.connect`.

        Raises:
            UsageError: `emulation-missing`, or `on` names no such place. RejectedError: the bundle is damaged.
            DeviceError: `golden-mismatch`, `probe-crashed`, or the runtime failed.
            TransportError: the machine, the broker or the device can't be reached.

        >>> bundle.verify().min_cosine > 0.99
        True
        """
        from edgeml import verify  # noqa: PLC0415 - imports NumPy

        return verify.verify(self.path, on, connection=fleet)

    def bench(
        self,
        on: str = LOCAL,
        *,
        case: int = 1,
        threads: int | None = None,
        seconds: float = SECONDS,
        fleet: DeviceConnection | None = None,
    ) -> Benchmark:
        """Measure latency, throughput, memory and energy at batch 1, in a process of its own.

        Args:
            on: `local`, `ssh://HOST` or `device:ID`.
            case: the golden case whose input is run, from 1.
            threads: None takes the bundle's own number.
            seconds: how long to run after the warm-up.
            fleet: how `device:ID` is reached: `Fleet.connection` or `Fleet.connect`.

        Raises:
            UsageError: `usage`, for a place or a golden case that doesn't exist. RejectedError: the bundle is damaged.
            DeviceError: `probe-crashed`, `runtime-missing` or `runtime-failed`.
            TransportError: the machine, the broker or the device can't be reached.

        >>> bundle.bench(seconds=0.1).input_shapes["input_ids"][0]
        1
        """
        from edgeml import bench  # noqa: PLC0415 - imports NumPy

        timing = Timing(case=case, threads=threads, seconds=seconds)
        return bench.measure(self.path, on, timing=timing, connection=fleet)

    def to_dict(self) -> dict[str, object]:
        """Describe the bundle as an entry of `edgeml export --json` does (docs/cli.md)."""
        manifest, card, measured = self.manifest, self.card, self.measurements
        return {
            "path": str(self.path),
            "name": manifest.name,
            "version": manifest.version,
            "target": manifest.target,
            "format": manifest.file_format,
            "recipe": card.recipe,
            "size_bytes": card.size_bytes,
            "baseline_size_bytes": card.baseline_size_bytes,
            "accuracy": _accuracy(card.accuracy),
            "greedy": msgspec.to_builtins(card.greedy) if card.greedy else None,
            "kernels": msgspec.to_builtins(card.kernels) if card.kernels else None,
            "latency_ms": measured
            and {
                "fp32_p50": measured.fp32.p50_ms,
                "int8_p50": measured.int8.p50_ms,
                "measured_on": measured.cpu,
            },
            "prefill": msgspec.to_builtins(measured.prefill) if measured and measured.prefill else None,
            "memory_fraction": measured.memory_fraction if measured else None,
            "parity": {"max_abs": card.parity.max_abs, "cosine": card.parity.cosine},
            "verified_on": [{"cpu": it.cpu, "how": it.how, "ok": it.ok} for it in measured.verified_on]
            if measured
            else [],
            "choice": card.choice or "",
            "warnings": list(self.warnings),
        }


def _accuracy(accuracy: Accuracy | None) -> dict[str, object] | None:
    if accuracy is None:
        return None
    return {
        "metric": accuracy.metric,
        "fp32": accuracy.fp32,
        "int8": accuracy.int8,
        "drop": accuracy.drop,
        "ci95": list(accuracy.ci95),
    }


def _verification(it: Verified, accuracy: Accuracy | None) -> TargetVerification:
    """Pair a verification with the accuracy of the card, which was measured where the golden outputs were recorded."""
    note = it.note or ("" if it.ok else "golden outputs not reproduced")
    return TargetVerification(cpu=it.cpu, how=it.how, accuracy=accuracy if it.how == "measured" else None, note=note)


@contextmanager
def opened(path: Path) -> Iterator[BundleReader]:
    """Open a bundle file for reading, as long as the context lasts.

    Raises:
        UsageError: `usage`, when there is no such file. RejectedError: `bundle-format`.
    """
    try:
        source = path.open("rb")
    except OSError as error:
        raise UsageError("usage", f"{path} can't be read", "name a .edgeml file") from error
    with source:
        yield BundleReader(source)


def measurements(bundle: Path, manifest_sha256: str) -> Measurements | None:
    """Read the measurements beside a bundle; None where there are none.

    Raises:
        RejectedError: `document-format` when they are malformed, `digest-mismatch` when they are another bundle's.
    """
    path = bundle.with_name(bundle.stem + MEASUREMENTS_SUFFIX)
    if not path.is_file():
        return None
    try:
        found = decoding.from_json(path.read_bytes(), Measurements)
    except msgspec.MsgspecError as error:
        raise RejectedError("document-format", f"{path} can't be read: {error}", "export the model again") from error
    if found.manifest_sha256 != manifest_sha256:
        raise RejectedError("digest-mismatch", f"{path} measures another bundle", "export the model again")
    return found
