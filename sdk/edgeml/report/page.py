"""The page itself: sections in order, in a frame that lets nothing else in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeml.bundles import Bundle
from edgeml.report import sections
from edgeml.report.markup import el, write
from edgeml_core.errors import UsageError

_STYLE: Final = Path(__file__).with_name("style.css")
#: Should an escape ever be missed, a browser still runs and fetches nothing.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


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
    """The HTML of a bundle's page."""
    manifest, measured = found.manifest, found.measurements
    card = manifest.card
    title = f"{manifest.name} {manifest.version}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} for {manifest.target}"),
        el("style", _STYLE.read_text()),
    )
    plots = el(
        "div",
        sections.latency(measured),
        el("div", sections.sizes(card), sections.classes(card.accuracy)),
        class_="columns",
    )
    body = el(
        "body",
        el("header", el("h1", title), el("p", f"{manifest.target} · {manifest.file_format} · {card.recipe}")),
        sections.tiles(found),
        sections.warnings(card),
        plots,
        sections.candidates(found),
        sections.proofs(found.proofs),
        sections.manifest(found),
        sections.figures(found),
    )
    return write(el("html", head, body, lang="en"))
