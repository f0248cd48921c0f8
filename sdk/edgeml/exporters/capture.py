"""Torch's capture of a module's Python code: what it can't capture, as one line that names the operator's own code."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

#: Folders whose code is not the operator's.
_LIBRARIES: Final = ("site-packages", "dist-packages", "edgeml")
_NUMPY: Final = re.compile(r"\.numpy\(\) is not supported")
#: Torch's two messages on a length that was to be free.
_FIXED: Final = (
    re.compile(r"static shape of (?P<length>\d+) for dimension (?P<name>.+?)\.shape\[(?P<axis>\d+)\]"),
    re.compile(r"marked (?P<name>.+?)\.size\(\)\[(?P<axis>\d+)\] as dynamic but your code .* \((?P<length>\d+)\)"),
)
_FIXED_VIEW: Final = re.compile(r"shape '(\[.*?\])' is invalid for input of size (?=\S*s\d)")


class Explained(NamedTuple):
    """Why a module can't be captured, and what to do."""

    why: str
    hint: str


def check(module: torch.nn.Module, example: Mapping[str, torch.Tensor]) -> None:
    """Check that no step of a module follows the values of its input in Python: a trace keeps the example's way.

    Raises:
        Exception: torch's own, which `explain` reads. Other failures of capture say nothing about the trace.
    """
    try:
        torch.export.export(module, (), kwargs=dict(example), strict=False)
    except Exception as error:
        if isinstance(error, GuardOnDataDependentSymNode) or _NUMPY.search(str(error)):
            raise


def explain(error: Exception) -> Explained | None:
    """Explain a failure of capture; None for another one."""
    text = str(error)
    if isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in text:
        return Explained(
            f"its Python code follows the values of its input{_where(error)}",
            "compute with tensors only: torch.where in place of if, a tensor in place of int() or .item()",
        )
    if _NUMPY.search(text):
        return Explained(f"it leaves torch for NumPy{_where(error)}", "compute with torch's own functions in forward")
    if found := next(filter(None, (form.search(text) for form in _FIXED)), None):
        return Explained(
            f"its code fixes the length of axis {found['axis']} of {found['name']} to {found['length']}",
            "take lengths from x.shape in forward, or export the model as file.py:function with one example",
        )
    if found := _FIXED_VIEW.search(text):
        return Explained(f"its code fixes a shape to {found[1]}{_where(error)}", "take lengths from x.shape in forward")
    return None


def _where(error: Exception) -> str:
    """Name the last line of the operator's own code that led to an error."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in _LIBRARIES for part in Path(frame.filename).parts) and not frame.filename.startswith("<"):
            return f", at {Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    return ""
