"""The adapter to LiteRT: ai-edge-litert where installed, else tflite-runtime, the same library under its old name.

Models have fixed shapes: one signature, or one for each fixed length (such as `len_32` and `len_256`) with the same
input and output names. `run` takes the signature whose input shapes equal the given ones. LiteRT prints one message to
stderr when it sets XNNPACK up, and has no switch for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_runtime.tensors import Array, fits

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter

_FAILURES: Final = (ValueError, RuntimeError, TypeError, MemoryError, OSError, KeyError)


class LiteRtSession:
    """One TFLite model in LiteRT. One thread at a time may call `run`.

    Args:
        path: the `.tflite` file.
        options: must be empty: LiteRT has none.
        threads: of one operator.

    Raises:
        DeviceError: `runtime-failed`, when LiteRT can't load the model or it has no signature.
        RejectedError: `bundle-format`, when options are given.
    """

    def __init__(self, path: Path, options: Mapping[str, str], *, threads: int) -> None:
        if options:
            raise RejectedError("bundle-format", f"LiteRT has no options, but got {', '.join(sorted(options))}")
        try:
            self._interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
            # Signature runners allocate on their own, but later or without XNNPACK. Without this call tflite-runtime
            # 2.14 ran an fp32 encoder in 77 ms instead of 27; ai-edge-litert 2.3 took 38 ms instead of 6 first.
            self._interpreter.allocate_tensors()
            names = self._interpreter.get_signature_list()
            self._signatures = [_Signature(self._interpreter.get_signature_runner(name)) for name in names]
        except _FAILURES as error:
            raise _failed("load", error) from error
        if not self._signatures:
            raise DeviceError("runtime-failed", "the TFLite model has no signature", "export it with `edgeml export`")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.Session.run`."""
        for signature in self._signatures:
            if signature.takes(inputs):
                try:
                    outputs: dict[str, Array] = signature.runner(**inputs)
                except _FAILURES as error:
                    raise _failed("run", error) from error
                return outputs
        given = {name: list(array.shape) for name, array in inputs.items()}
        taken = "; ".join(str({n: list(s) for n, s in signature.shapes.items()}) for signature in self._signatures)
        raise UsageError("input-invalid", f"the model has no variant for the shapes {given}", f"send one of {taken}")

    def close(self) -> None:
        """See `engines.Session.close`."""
        self._signatures = []
        self._interpreter = None


class _Signature:
    def __init__(self, runner: Any) -> None:  # noqa: ANN401 -- LiteRT has no types
        self.runner = runner
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(int(length) for length in detail["shape_signature"])
            for name, detail in runner.get_input_details().items()
        }

    def takes(self, inputs: Mapping[str, Array]) -> bool:
        return inputs.keys() == self.shapes.keys() and all(
            fits(array.shape, self.shapes[name]) for name, array in inputs.items()
        )


def _failed(verb: str, error: Exception) -> DeviceError:
    hint = "run `edgeml verify` on the host: it shows whether the bundle or this machine is at fault"
    return DeviceError("runtime-failed", f"LiteRT couldn't {verb} the model: {error}", hint)
