"""torchvision without its compiled operators, which timm and transformers import but never call here.

torchvision's wheels on the package index are built for torch with CUDA. Beside a CPU build of torch their operators
can't be loaded, and then torchvision, timm and transformers raise while they are imported. Names without a body help.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from pathlib import Path
from typing import Final

#: Operators that torchvision registers shapes for without a look whether they were loaded.
#: Source: torchvision 0.28 `_meta_registrations`.
_NAMES: Final = ("nms", "qnms")
#: The file of compiled operators, by torchvision's version.
_LIBRARIES: Final = ("_C.so", "_C_stable.so")


@functools.cache
def declare() -> None:
    """Declare the operators where torchvision is installed and can't load them; call it before torchvision's import."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    import torch  # noqa: PLC0415 -- takes seconds, and is needed beside torchvision alone

    for name in _LIBRARIES:
        path = Path(found.origin).with_name(name)
        with contextlib.suppress(OSError):
            if path.is_file():
                torch.ops.load_library(path)
                return
    for name in _NAMES:
        torch.library.define(f"torchvision::{name}", "() -> ()")
