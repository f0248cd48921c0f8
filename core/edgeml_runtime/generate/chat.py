"""Messages joined to one prompt by the chat template in a manifest, which is data: a device runs no code of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from edgeml_core.errors import UsageError
from edgeml_core.processing import ChatTemplate
from edgeml_runtime.tasks import Message

#: Stands for the beginning and the end of a conversation, beside the roles.
_OUTSIDE: Final = ""


def render(messages: Sequence[Message], template: ChatTemplate) -> str:
    """Join messages to the prompt of the model's next message.

    Raises:
        UsageError: `input-invalid`, when the template has no such order of roles.
    """
    contents = [it.content.strip() if template.trim else it.content for it in messages]
    frames = _frames([_OUTSIDE, *(it.role for it in messages), _OUTSIDE], template)
    return "".join(frame + content for frame, content in zip(frames, [*contents, ""], strict=True))


def _frames(roles: Sequence[str], template: ChatTemplate) -> Iterator[str]:
    for before, role in pairwise(roles):
        frame = template.between.get(before, {}).get(role)
        if frame is None:
            raise UsageError("input-invalid", _refusal(before, role), f"the model takes {_orders(template)}")
        yield frame


def _refusal(before: str, role: str) -> str:
    if role == _OUTSIDE:
        return f"the last message is of the role {before!r}" if before else "there is no message"
    where = f"after one of {before!r}" if before else "first"
    return f"a message of the role {role!r} can't come {where}"


def _orders(template: ChatTemplate) -> str:
    orders = [
        f"{role} after {before}" if before else f"{role} first"
        for before, roles in sorted(template.between.items())
        for role in sorted(roles)
        if role
    ]
    return ", ".join(orders)
