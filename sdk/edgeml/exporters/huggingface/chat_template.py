"""A tokenizer's chat template as plain data: derived by rendering it on this host, and compared with it.

A template is a program, and devices run none. The data has the text between any two roles. A template whose text
depends on more than that can't be expressed. `tool_template` derives the part for tools.
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
from edgeml.exporters.huggingface import tool_probes, tool_template
from edgeml.exporters.huggingface.tool_template import Inexpressible
from edgeml_core.errors import UsageError
from edgeml_core.processing import ChatTemplate
from edgeml_runtime.generate import chat, tools
from edgeml_runtime.tasks import CallingMessage, Message, ResultMessage

#: Roles of conversations, the best first. Some templates place the system's message where data can't express it.
_CASTS: Final = (("system", "user", "assistant"), ("user", "assistant"))
#: Messages of the longest conversation that is compared: a second answer, and the message before it.
_MESSAGES_MAX: Final = 4
#: Contents of messages on which a template may depend.
_CONTENTS: Final = ("Hello", "  white space\n\n", "", "{{ a }} {% b %}", "<think>why</think>so", "two\nlines, ümlaut")
#: A template with this function writes another prompt each day.
_CLOCK: Final = "strftime_now"
#: Files of templates, besides the tokenizer's settings.
_FILES: Final = ("chat_template.jinja", "additional_chat_templates")

_Render = Callable[[Sequence[Message]], str | None]


class _Settings(msgspec.Struct, frozen=True):
    chat_template: object = None


def read(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Read the chat template of the tokenizer in a folder; None when it has no template.

    Args:
        folder: the model's.
        tokenizer: the one that the device will use.

    Raises:
        Inexpressible: the template can't be expressed as plain data.
    """
    if not _has_template(folder):
        return None
    original = _open(folder)

    def render(messages: Sequence[Message]) -> str | None:
        return _rendered(original, messages)

    for cast in _CASTS:
        try:
            template = _with_trim(render, _derive(render, cast), cast)
        except Inexpressible:
            if cast == _CASTS[-1]:
                raise
        else:
            _check_same_tokens(original, tokenizer, template)
            return template
    return None


def with_tools(folder: Path, tokenizer: Tokenizer, template: ChatTemplate, stops: Sequence[str]) -> ChatTemplate:
    """Add to a chat template how it writes tools; a template that writes none stays as it is.

    Args:
        folder: the model's.
        tokenizer: the one that the device will use.
        template: from `read`.
        stops: texts of the tokens that end an answer.

    Raises:
        Inexpressible: that part can't be expressed as plain data.
    """
    original = _open(folder)
    found = tool_template.derive(lambda messages, given: _rendered(original, messages, given), stops)
    if found is None:
        return template
    messages = next(tool_probes.hard(("user", "calls", "tool"), calls=1, first=0))
    expected = original.apply_chat_template(
        [_conversation(it) for it in messages], tools=list(tool_probes.TOOLS), add_generation_prompt=True
    )
    text = tools.render(messages, tool_probes.TOOLS, found)
    if expected != tokenizer.encode(text, add_special_tokens=False).ids:
        raise Inexpressible("transformers encodes its prompts to other tokens than tokenizer.json does")
    return msgspec.structs.replace(template, tools=found)


def _has_template(folder: Path) -> bool:
    settings = folders.read(folder / "tokenizer_config.json", _Settings) or _Settings()
    return settings.chat_template is not None or any((folder / name).exists() for name in _FILES)


def _open(folder: Path) -> Any:  # noqa: ANN401 -- transformers has no types here
    """Open the tokenizer with transformers."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        written = (tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[{}]))
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise Inexpressible(f"transformers can't open it: {error}") from error
    if any(_CLOCK in template for template in written):
        raise Inexpressible("it depends on the date")
    return tokenizer


def _rendered(tokenizer: Any, messages: Sequence[Message], given: Sequence[tool_probes.Tool] = ()) -> str | None:  # noqa: ANN401
    """Render a conversation, with tools or without; None for one that the template refuses."""
    conversation = [_conversation(it) for it in messages]
    # Without tools templates look for none, not for an empty list.
    more = {"tools": list(given)} if given else {}
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **more))
    except Exception:  # noqa: BLE001 -- a template's expressions raise any error
        return None


def _conversation(message: Message) -> dict[str, Any]:
    """Write a message in transformers' form, which is OpenAI's with arguments as an object."""
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    match message:
        case CallingMessage(calls=calls):
            functions = ((it.id, {"name": it.name, "arguments": it.arguments}) for it in calls)
            written["tool_calls"] = [{"id": key, "type": "function", "function": it} for key, it in functions]
        case ResultMessage(call_id=call_id):
            written["tool_call_id"] = call_id
    return written


def _derive(render: _Render, cast: Sequence[str]) -> ChatTemplate:
    """Derive the text between messages from the roles on either side."""
    between: dict[str, dict[str, str]] = defaultdict(dict)
    for roles in _conversations(cast):
        marks = [f"mark-{number}-mark" for number in range(len(roles))]
        text = render([Message(role, mark) for role, mark in zip(roles, marks, strict=True)])
        for (before, role), frame in zip(itertools.pairwise(("", *roles, "")), _frames(text, marks), strict=False):
            if between[before].setdefault(role, frame) != frame:
                where = f"{before or 'the beginning'} and {role or 'the answer'}"
                raise Inexpressible(f"its text between {where} depends on more than these two")
    if "" not in between["user"]:
        raise Inexpressible("it refuses every conversation that ends with the user")
    return ChatTemplate(between={before: dict(roles) for before, roles in between.items()})


def _conversations(cast: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for length in range(1, _MESSAGES_MAX + 1):
        yield from itertools.product(cast, repeat=length)


def _frames(text: str | None, marks: Sequence[str]) -> list[str]:
    """Split a text at the marks; empty when the template refuses them, leaves one out or changes their order."""
    frames = []
    for mark in marks:
        frame, found, text = (text or "").partition(mark)
        if not found:
            return []
        frames.append(frame)
    return [*frames, text or ""]


def _with_trim(render: _Render, derived: ChatTemplate, cast: Sequence[str]) -> ChatTemplate:
    """Choose with or without trimming, so that the data renders every conversation as the template does."""
    for trim in (False, True):
        template = msgspec.structs.replace(derived, trim=trim)
        if all(_is_same(render, template, roles) for roles in _conversations(cast)):
            return template
    raise Inexpressible("its text depends on the contents of the messages, or on their number")


def _is_same(render: _Render, template: ChatTemplate, roles: Sequence[str]) -> bool:
    for first in range(len(_CONTENTS)):
        contents = itertools.islice(itertools.cycle(_CONTENTS), first, first + len(roles))
        messages = [Message(role, content) for role, content in zip(roles, contents, strict=True)]
        try:
            text = chat.render(messages, template)
        except UsageError:
            return True  # the device refuses this order
        if text != render(messages):
            return False
    return True


def _check_same_tokens(original: Any, tokenizer: Tokenizer, template: ChatTemplate) -> None:  # noqa: ANN401 -- no types
    messages = [Message("user", _CONTENTS[-1])]
    expected = original.apply_chat_template([msgspec.structs.asdict(messages[0])], add_generation_prompt=True)
    if expected != tokenizer.encode(chat.render(messages, template), add_special_tokens=False).ids:
        raise Inexpressible("transformers encodes its prompts to other tokens than tokenizer.json does")
