"""One header of a request. Each request is asked for half a dozen: starlette's mapping takes a tenth of its time."""

from __future__ import annotations

from starlette.types import Scope


def sent(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, in lower case as ASGI has it; None when there is none."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
