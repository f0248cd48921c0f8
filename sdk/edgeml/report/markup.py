"""Elements of a page: text and attributes are escaped when it is written, whatever is in them."""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree as ET

Element = ET.Element
Child = Element | str | None

#: Control characters, and those that turn the direction of what follows: shown as their numbers.
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def el(tag: str, *children: Child, **attributes: object) -> Element:
    """An element; `class_` and `view_box` stand for the attributes that Python can't spell, `_` for `-`."""
    names = {"class_": "class", "view_box": "viewBox"}
    made = ET.Element(tag, {names.get(key, key.replace("_", "-")): shown(str(it)) for key, it in attributes.items()})
    for child in children:
        if isinstance(child, str):
            _add_text(made, shown(child))
        elif child is not None:
            made.append(child)
    return made


def shown(text: str) -> str:
    r"""The text with what can't be seen, or would disturb what can, as `\uNNNN`."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write(root: Element) -> str:
    """The document."""
    return f"<!doctype html>\n{ET.tostring(root, encoding='unicode', method='html')}\n"


def _add_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
