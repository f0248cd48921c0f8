"""The host's side of the oracle: one process for all exports of a program, started before it is needed."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from edgeml import child_process
from edgeml.child_process import Conversation, ExecutionSite
from edgeml.oracle import which_library
from edgeml.oracle.protocol import Ask, RawItem, Reply
from edgeml_core.errors import EdgemlError
from edgeml_core.manifest import Task
from edgeml_runtime.tasks import Audio, Image, Item, Prompt, Question, Tensors, Text
from edgeml_runtime.tensors import to_data

#: Names the Python of another environment with edgeml-deploy and the model's own library.
PYTHON_VARIABLE: Final = "EDGEML_ORACLE_PYTHON"
#: Seconds for all items of one model.
TIMEOUT_S: Final = 1800.0


class Library:
    """The program of one Python, started at the first use and again after a failure.

    Args:
        python: the interpreter.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        self._open: ExitStack | None = None
        self._conversation: Conversation | None = None

    def start(self, model: Path) -> Conversation:
        """Start the program; it imports the model's library at once."""
        if self._conversation is None:
            self._open = ExitStack()
            command = [self._python, "-P", "-m", "edgeml.oracle.child", which_library.of(model)]
            hint = f"check that {self._python} can import the model's own library"
            site = ExecutionSite(name="this machine", command=command, timeout_s=TIMEOUT_S, hint=hint)
            self._conversation = self._open.enter_context(child_process.conversation(site, end_timeout_s=0.0))
        return self._conversation

    def ask(self, folder: Path, task: Task, items: Sequence[Item]) -> Reply:
        """Ask for the answers to items, each alone.

        Args:
            folder: the model's, or its file.
            task: the model's.
            items: of the kind that the model takes.

        Raises:
            UsageError: `model-unreadable` or `extra-missing`, when the library can't load the model.
            DeviceError: `probe-crashed`, when the program crashed or hung.
        """
        asked = Ask(folder=str(folder.resolve()), task=task, items=tuple(raw(item) for item in items))
        try:
            reply = self.start(folder).ask(msgspec.msgpack.encode(asked), Reply)
        except EdgemlError:
            self.close()
            raise
        if reply.refused is not None:
            raise reply.refused.error()
        return reply

    def close(self) -> None:
        """End the program."""
        self._conversation = None
        if self._open is not None:
            self._open.close()
            self._open = None


def raw(item: Item) -> RawItem:
    """Describe an item as its owner has it."""
    match item:
        case Text(text=text, text_pair=pair, top_k=top_k):
            return RawItem(text=text, text_pair=pair, top_k=top_k)
        case Question(question=question, context=context):
            return RawItem(question=question, text=context)
        case Prompt(prompt=prompt, max_new_tokens=tokens):
            return RawItem(text=prompt, tokens=tokens)
        case Image(data=data, threshold=threshold):
            return RawItem(image=data, threshold=threshold)
        case Audio(samples=samples, sampling_rate_hz=rate_hz):
            return RawItem(samples=samples.astype("<f4").tobytes(), sampling_rate_hz=rate_hz)
        case Tensors(inputs=inputs):
            return RawItem(tensors={name: to_data(array) for name, array in inputs.items()})
        case _:
            raise TypeError(f"an oracle takes no {type(item).__name__}")


def of_environment() -> Library:
    """Return the library of the environment that `EDGEML_ORACLE_PYTHON` names, else of this one."""
    return _of(os.environ.get(PYTHON_VARIABLE) or sys.executable)


@functools.cache
def _of(python: str) -> Library:
    library = Library(python)
    atexit.register(library.close)
    return library
