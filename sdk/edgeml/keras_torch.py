"""Keras on its torch backend, imported without a trace: Keras reads and makes a folder of settings when it is imported.

The exporter and the oracle import Keras here.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from types import ModuleType
from typing import Final

from edgeml_core.errors import UsageError

_BACKEND: Final = "torch"
_HOME: Final = "KERAS_HOME"


def load() -> ModuleType:
    """Import Keras.

    Raises:
        UsageError: `extra-missing`, when Keras isn't installed; `usage`, when this process runs it on another backend.
    """
    before = os.environ.get(_HOME)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"KERAS_BACKEND": _BACKEND, _HOME: folder}
        try:
            keras = importlib.import_module("keras")
        except ImportError as error:
            hint = "pip install 'edgeml-deploy[export-keras]'"
            raise UsageError("extra-missing", f"Keras models need {error.name}", hint) from error
        finally:
            os.environ.pop(_HOME)
            if before is not None:
                os.environ[_HOME] = before
    if (backend := keras.backend.backend()) != _BACKEND:
        message = f"Keras runs on {backend} in this process; edgeml needs its torch backend"
        raise UsageError("usage", message, "export in a process of its own, or set KERAS_BACKEND=torch")
    return keras
