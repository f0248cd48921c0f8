"""edgeml on the host, as a Python library: export, quantize, check, publish and steer a fleet. See docs/python.md.

`import edgeml` imports nothing else: each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeml.bundles import Bundle
    from edgeml.fleet.fleet import Fleet
    from edgeml.fleet.rollouts.plan import Plan
    from edgeml.pipeline.library import export
    from edgeml.pipeline.request import Progress
    from edgeml.repository import NewKeys, Repository
    from edgeml_core import __version__
    from edgeml_core.errors import (
        DeviceError,
        EdgemlError,
        GateFailed,
        RejectedError,
        TransportError,
        UsageError,
    )

#: The module of each public name.
_MODULES = {
    "Bundle": "edgeml.bundles",
    "DeviceError": "edgeml_core.errors",
    "EdgemlError": "edgeml_core.errors",
    "Fleet": "edgeml.fleet.fleet",
    "GateFailed": "edgeml_core.errors",
    "NewKeys": "edgeml.repository",
    "Plan": "edgeml.fleet.rollouts.plan",
    "Progress": "edgeml.pipeline.request",
    "RejectedError": "edgeml_core.errors",
    "Repository": "edgeml.repository",
    "TransportError": "edgeml_core.errors",
    "UsageError": "edgeml_core.errors",
    "__version__": "edgeml_core",
    "export": "edgeml.pipeline.library",
}

__all__ = [
    "Bundle",
    "DeviceError",
    "EdgemlError",
    "Fleet",
    "GateFailed",
    "NewKeys",
    "Plan",
    "Progress",
    "RejectedError",
    "Repository",
    "TransportError",
    "UsageError",
    "__version__",
    "export",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'edgeml' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those that aren't imported yet."""
    return sorted({*globals(), *__all__})
