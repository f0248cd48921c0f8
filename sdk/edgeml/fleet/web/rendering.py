"""Pages made of the templates, and the static files. Every expression of a template is escaped.

Text of devices is untrusted: characters that can't be seen become their numbers, as in a bundle's page.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import Response

from edgeml.fleet.web.accounts import Role
from edgeml.fleet.web.exchange import Exchange
from edgeml.fleet.web.operations import HTML
from edgeml.report.page import visible
from edgeml_core import names
from edgeml_core.errors import EdgemlError, UsageError

_FOLDER: Final = Path(__file__).parent
#: Media types of the static files, by their suffix.
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400


def page(template: str, exchange: Exchange, status_code: int = 200, **values: object) -> Response:
    """Make a page, or the part of it that htmx asks for."""
    context = {
        "account": exchange.account,
        "csrf": exchange.session.csrf if exchange.session else "",
        "may_deploy": exchange.account is not None and exchange.account.role.permits(Role.DEPLOY),
        "may_administer": exchange.account is not None and exchange.account.role.permits(Role.ADMIN),
        "is_fragment": exchange.is_fragment,
        "files": static_files(),
    }
    text = _environment().get_template(template).render({**context, **values})
    return Response(text, status_code, media_type=f"{HTML}; charset=utf-8", headers={"Vary": "HX-Request"})


def error_page(exchange: Exchange, error: EdgemlError, status: int) -> Response:
    """Make the page of an error."""
    return page("error.html", exchange, status, error=error, status=status)


@cache
def static_files() -> Mapping[str, str]:
    """Return the address of each static file by its name; it changes with the content."""
    found = (it for it in sorted((_FOLDER / "static").rglob("*")) if it.suffix in _TYPES)
    return {it.name: f"/static/{it.name}?digest={hashlib.sha256(it.read_bytes()).hexdigest()[:12]}" for it in found}


def static_file(name: str) -> Response:
    """Return a static file.

    Raises:
        UsageError: `route-unknown`.
    """
    if name not in static_files():
        raise UsageError("route-unknown", f"there is no file {name!r}")
    path = next(it for it in (_FOLDER / "static").rglob(name))
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix], headers=headers)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "age": _age,
        "moment": _moment,
        "labels": names.as_text,
        "size": _size,
        "as_json": lambda it: msgspec.json.encode(it).decode(),
    }
    return environment


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) else visible(str(value))


def _age(seen_s: float) -> str:
    if not seen_s:
        return "never"
    seconds = max(0.0, time.time() - seen_s)
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= unit_s:
            return f"{seconds // unit_s:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _moment(seen_s: float) -> str:
    return datetime.fromtimestamp(seen_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seen_s else "never"


def _size(count: float) -> str:
    if count < 1e3:
        return f"{count:.0f} bytes"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
