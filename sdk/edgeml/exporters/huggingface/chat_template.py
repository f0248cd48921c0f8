"""A tokenizer's chat template as plain data: learnt by rendering it on this host, then held equal to it.

A template is a program; devices run none. What depends on more than a message's neighbours can't be told as data.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import transformers
from tokenizers import Tokenizer

from edgeml.exporters.huggingface import folder as folders
from edgeml_core.errors import UsageError
from edgeml_core.processing import ChatTemplate
from edgeml_runtime.generate import chat
from edgeml_runtime.tasks import Message

#: Kinds of conversations, the best first: some templates put what a system says where it can't be told as data.
_CASTS: Final = (("system", "user", "assistant"), ("user", "assistant"))
#: Messages of the conversations that are compared: an answer to an answer, and what comes after it.
_MESSAGES_MAX: Final = 4
#: What messages may hold that a template may look for.
_CONTENTS: Final = ("Hello", "  white space\n\n", "", "{{ a }} {% b %}", "<think>why</think>so", "two\nlines, ümlaut")
#: A template that asks for the time writes another prompt each day.
_CLOCK: Final = "strftime_now"
#: Where transformers writes templates, unless into the tokenizer's settings.
_FILES: Final = ("chat_template.jinja", "additional_chat_templates")

_Render = Callable[[Sequence[Message]], str | None]


class Inexpressible(Exception):
    """Why a template can't be told as data."""


class _Settings(msgspec.Struct, frozen=True):
    chat_template: object = None


def read(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of the tokenizer in a folder; None where it has none.

    Args:
        tokenizer: the one that the device will use.

    Raises:
        Inexpressible: there is one, but not as plain data.
    """
    if not _has_one(folder):
        return None
    theirs, render = _opened(folder)
    for cast in _CASTS:
        try:
            template = _equal(render, _learnt(render, cast), cast)
        except Inexpressible:
            if cast == _CASTS[-1]:
                raise
        else:
            _require_same_tokens(theirs, tokenizer, template)
            return template
    return None


def _has_one(folder: Path) -> bool:
    settings = folders.read(folder / "tokenizer_config.json", _Settings) or _Settings()
    return settings.chat_template is not None or any((folder / name).exists() for name in _FILES)


def _opened(folder: Path) -> tuple[Any, _Render]:
    """The tokenizer as transformers opens it, and its rendering: None where the template refuses a conversation."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        written = tokenizer.get_chat_template()
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise Inexpressible(f"transformers can't open it: {error}") from error
    if _CLOCK in written:
        raise Inexpressible("it asks what day it is")

    def render(messages: Sequence[Message]) -> str | None:
        said = [msgspec.structs.asdict(it) for it in messages]
        try:
            return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        except Exception:  # noqa: BLE001 -- a template raises whatever its expressions do
            return None

    return tokenizer, render


def _learnt(render: _Render, cast: Sequence[str]) -> ChatTemplate:
    """What stands between messages, by the roles on either side."""
    between: dict[str, dict[str, str]] = defaultdict(dict)
    for roles in _conversations(cast):
        marks = [f"mark-{number}-mark" for number in range(len(roles))]
        text = render([Message(role, mark) for role, mark in zip(roles, marks, strict=True)])
        for (before, role), frame in zip(itertools.pairwise(("", *roles, "")), _frames(text, marks), strict=False):
            if between[before].setdefault(role, frame) != frame:
                where = f"{before or 'the beginning'} and {role or 'the answer'}"
                raise Inexpressible(f"what it writes between {where} depends on more than these two")
    if "" not in between["user"]:
        raise Inexpressible("it takes no conversation that ends with the user")
    return ChatTemplate(between={before: dict(roles) for before, roles in between.items()})


def _conversations(cast: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for length in range(1, _MESSAGES_MAX + 1):
        yield from itertools.product(cast, repeat=length)


def _frames(text: str | None, marks: Sequence[str]) -> list[str]:
    """What stands around the marks; nothing when the template refuses them, leaves one out or changes their order."""
    frames = []
    for mark in marks:
        frame, found, text = (text or "").partition(mark)
        if not found:
            return []
        frames.append(frame)
    return [*frames, text or ""]


def _equal(render: _Render, learnt: ChatTemplate, cast: Sequence[str]) -> ChatTemplate:
    """The data, with or without trimming, that writes what the template writes for any conversation that it takes."""
    for trim in (False, True):
        template = msgspec.structs.replace(learnt, trim=trim)
        if all(_is_same(render, template, roles) for roles in _conversations(cast)):
            return template
    raise Inexpressible("what it writes depends on what the messages say, or on where they stand")


def _is_same(render: _Render, template: ChatTemplate, roles: Sequence[str]) -> bool:
    for first in range(len(_CONTENTS)):
        contents = itertools.islice(itertools.cycle(_CONTENTS), first, first + len(roles))
        messages = [Message(role, content) for role, content in zip(roles, contents, strict=True)]
        try:
            ours = chat.render(messages, template)
        except UsageError:
            return True  # the device refuses this order
        if ours != render(messages):
            return False
    return True


def _require_same_tokens(theirs: Any, ours: Tokenizer, template: ChatTemplate) -> None:  # noqa: ANN401 -- no types
    messages = [Message("user", _CONTENTS[-1])]
    wanted = theirs.apply_chat_template([msgspec.structs.asdict(messages[0])], add_generation_prompt=True)
    if wanted != ours.encode(chat.render(messages, template), add_special_tokens=False).ids:
        raise Inexpressible("transformers makes other tokens of its prompts than tokenizer.json")
