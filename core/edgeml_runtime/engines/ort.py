"""The adapter to onnxruntime: CPU only, quiet, each of its exceptions translated.

Options are the session's own config entries, from a short list. A bundle tunes speed and precision; it can't name
files, libraries or other providers. External weights lie beside the model file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from edgeml_core import decoding
from edgeml_core.errors import DeviceError, RejectedError
from edgeml_runtime.engines import Bound, OperatorRun, Run
from edgeml_runtime.tensors import Array

#: Source: onnxruntime_session_options_config_keys.h; each changes how the CPU computes and nothing else.
OPTIONS: Final = frozenset(
    {
        "mlas.enable_gemm_fastmath_arm64_bfloat16",
        "session.disable_double_qdq_remover",
        "session.disable_prepacking",
        "session.disable_quant_qdq",
        "session.dynamic_block_base",
        "session.enable_quant_qdq_cleanup",
        "session.inter_op.allow_spinning",
        "session.intra_op.allow_spinning",
        "session.intra_op.spin_duration_us",
        "session.qdq_matmulnbits_accuracy_level",
        "session.set_denormal_as_zero",
        "session.use_device_allocator_for_initializers",
        "session.x64quantprecision",
    }
)
#: Session entries that write a model with its weights packed. Weights below 1024 bytes stay in the model file.
PREPARED: Final = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
_WEIGHTS_NAME: Final = "session.optimized_model_external_initializers_file_name"
#: Severity; errors are raised with the text that would be logged, so only fatal ones are logged.
_LOG_FATAL: Final = 4

#: onnxruntime's own exceptions share no base but Exception; the built-in ones come from its bindings.
_FAILURES: Final[tuple[type[Exception], ...]] = (
    *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
    OSError,
)


class _EventArgs(msgspec.Struct, frozen=True):
    """The arguments of an operator's event in a profile; other events have none of them. Numbers are text."""

    op_name: str = ""
    parameter_size: str = "0"
    input_type_shape: tuple[dict[str, tuple[int, ...]], ...] = ()
    output_type_shape: tuple[dict[str, tuple[int, ...]], ...] = ()


class _Event(msgspec.Struct, frozen=True):
    """One event of a profile; it began at `ts` microseconds."""

    cat: str
    name: str
    ts: int
    args: _EventArgs = _EventArgs()


class OrtSession:
    """One ONNX model in onnxruntime. One thread at a time may call `run`.

    Args:
        path: the `.onnx` file.
        options: session config entries, of `OPTIONS` only.
        threads: of one operator; operators run in sequence.
        profile: the beginning of the path of a profile, which `end_profile` writes; empty for none.

    Raises:
        DeviceError: `runtime-failed`, when onnxruntime can't load the model.
        RejectedError: `bundle-format`, for an option that is not in `OPTIONS`.
    """

    def __init__(self, path: Path, options: Mapping[str, str], *, threads: int, profile: str = "") -> None:
        settings = _settings(options, threads)
        if profile:
            settings.enable_profiling, settings.profile_file_prefix = True, profile
        try:
            self._session: Any = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        except _FAILURES as error:
            raise _failed("load", error) from error
        self._names: list[str] = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.Session.run`."""
        try:
            outputs = self._session.run(self._names, dict(inputs))
        except _FAILURES as error:
            raise _failed("run", error) from error
        return dict(zip(self._names, outputs, strict=True))

    def bind(self, bound: Bound) -> Run:
        """See `engines.InPlaceSession.bind`."""
        binding = self._session.io_binding()
        for name, (output, array) in bound.items():
            place = ("cpu", 0, array.dtype, array.shape, array.ctypes.data)
            binding.bind_input(name, *place)
            binding.bind_output(output, *place)
        return _BoundRun(self._session, binding, self._names, bound)

    def end_profile(self) -> Path:
        """Write the profile, and return its path."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """See `engines.Session.close`."""
        self._session = None


class _BoundRun:
    """Runs of one binding. The caches stay where they are: reading them as outputs would copy them.

    A run of the same shapes as the last one writes to the last one's outputs. To have onnxruntime make them takes a
    twentieth of a small model's token (SmolLM2's shape in 4 bits, an AMD EPYC).

    Args:
        session: onnxruntime's.
        binding: onnxruntime's, with all caches bound, and nothing else.
        names: all outputs.
        bound: the caches, which live as long as the binding.
    """

    def __init__(self, session: Any, binding: Any, names: Sequence[str], bound: Bound) -> None:  # noqa: ANN401 - no types
        self._session, self._binding, self._bound = session, binding, bound
        self._names = [name for name in names if name not in {output for output, _ in bound.values()}]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._outputs: dict[str, Array] = {}

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `engines.InPlaceSession.bind`."""
        try:
            for name, array in inputs.items():
                self._binding.bind_cpu_input(name, array)
            shapes = {name: array.shape for name, array in inputs.items()}
            if shapes != self._shapes:
                self._run_new_shapes()
                self._shapes = shapes
            else:
                self._session.run_with_iobinding(self._binding)
        except _FAILURES as error:
            self._shapes = {}
            raise _failed("run", error) from error
        return {name: array.copy() for name, array in self._outputs.items()}

    def _run_new_shapes(self) -> None:
        """Run with outputs that onnxruntime makes, and keep them for further runs of the same shapes."""
        for name in self._names:
            self._binding.bind_output(name)
        self._session.run_with_iobinding(self._binding)
        # Outputs keep the order in which they were first bound.
        values = self._binding.get_outputs()[len(self._bound) :]
        self._outputs = {name: value.numpy() for name, value in zip(self._names, values, strict=True)}
        for name, array in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def profile(path: Path, options: Mapping[str, str], use: Callable[[OrtSession], object]) -> list[OperatorRun]:
    """Load the model at `path`, let `use` run it, and list the operators of the last run in their order.

    Raises:
        DeviceError: `runtime-failed`, also for a profile that can't be read. RejectedError: as for `OrtSession`.
    """
    with tempfile.TemporaryDirectory(prefix="edgeml-") as folder:
        session = OrtSession(path, options, threads=1, profile=f"{folder}/profile")
        try:
            use(session)
            content = session.end_profile().read_bytes()
            events = decoding.from_json(content, list[_Event])
        except (OSError, msgspec.MsgspecError) as error:
            raise _failed("profile", error) from error
        finally:
            session.close()
    begun = max((it.ts for it in events if it.name == "model_run"), default=0)
    return [_operator_run(it.args) for it in events if it.cat == "Node" and it.args.op_name and it.ts >= begun]


def _operator_run(args: _EventArgs) -> OperatorRun:
    return OperatorRun(
        operator=args.op_name,
        inputs=tuple(pair for it in args.input_type_shape for pair in it.items()),
        output=next((shape for it in args.output_type_shape for shape in it.values()), ()),
        constant_bytes=int(args.parameter_size),
    )


def prepare(path: Path, target: Path, options: Mapping[str, str]) -> None:
    """Write the model at `path` to `target`, optimized, with its weights packed for this CPU beside it.

    The result is valid for this CPU and this version of onnxruntime only.

    Raises:
        DeviceError: `runtime-failed`. RejectedError: as for `OrtSession`.

    Source: onnxruntime_session_options_config_keys.h.
    """
    settings = _settings(options, threads=1)
    settings.optimized_model_filepath = str(target)
    for key, value in (PREPARED | {_WEIGHTS_NAME: f"{target.stem}.prepared"}).items():
        settings.add_session_config_entry(key, value)
    try:
        onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    except _FAILURES as error:
        raise _failed("prepare", error) from error


def _settings(options: Mapping[str, str], threads: int) -> onnxruntime.SessionOptions:
    if refused := sorted(options.keys() - OPTIONS):
        raise RejectedError("bundle-format", f"onnxruntime options not allowed in a bundle: {', '.join(refused)}")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _LOG_FATAL
    for key, value in options.items():
        settings.add_session_config_entry(key, value)
    return settings


def _failed(verb: str, error: Exception) -> DeviceError:
    hint = "run `edgeml verify` on the host: it shows whether the bundle or this machine is at fault"
    return DeviceError("runtime-failed", f"onnxruntime couldn't {verb} the model: {error}", hint)
