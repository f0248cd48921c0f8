"""The page of a bundle, written by the template page.html from the sections.

All text from the bundle is untrusted: Jinja escapes every expression, and characters that can't be seen become their
numbers. The page has no script and refers to no other file.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from edgeml.bundles import Bundle
from edgeml.report import sections
from edgeml_core.errors import UsageError

_TEMPLATE: Final = "page.html"
#: Control characters, and those that turn the direction of the text after them.
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def write_to(path: Path, found: Bundle) -> None:
    """Write a bundle's page to a file.

    Raises:
        UsageError: `usage`, when it can't be written.
    """
    try:
        path.write_text(render(found), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "usage", f"{path} can't be written: {error.strerror}", "name a file in a folder of yours"
        ) from error


def render(found: Bundle) -> str:
    """Render the HTML of a bundle's page."""
    manifest = found.manifest
    return _template().render(
        title=f"{manifest.name} {manifest.version}",
        manifest=manifest,
        tiles=sections.tiles(found),
        latency=sections.latency(found.measurements, manifest.card.recipe),
        sizes=sections.sizes(manifest.card),
        classes=sections.classes(manifest.card.accuracy),
        candidates=sections.candidates(found),
        verifications=sections.verifications(found.verifications),
        contents=sections.manifest(found),
        figures=sections.figures(found),
    )


def style_hash() -> str:
    """Return the hash by which a policy permits the page's style."""
    style = Path(__file__).with_name("style.css").read_bytes()
    return f"sha256-{base64.b64encode(hashlib.sha256(style).digest()).decode()}"


def visible(text: str) -> str:
    r"""Replace each character that can't be seen, or disturbs the text around it, by `\uNNNN`."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@cache
def _template() -> Template:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        keep_trailing_newline=True,
    ).get_template(_TEMPLATE)


def _finalize(value: object) -> object:
    """Make text visible before it is escaped; a macro's result has been through here already."""
    return value if isinstance(value, Markup) else visible(str(value))
