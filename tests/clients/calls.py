"""Calls of one client library, each tried by itself; a line of JSON tells what came of it.

Run by the clients' own environment, which has no edgeml: `python -m clients.NAME URL` from the folder `tests`.
"""

import asyncio
import inspect
import json
import sys
import traceback
from contextlib import contextmanager


@contextmanager
def refused(why):
    """The block must raise an error whose text says `why`."""
    try:
        yield
    except Exception as error:
        if why not in str(error):
            raise AssertionError(f"the error doesn't say {why!r}: {error}") from error
    else:
        raise AssertionError(f"no error that says {why!r}")


@contextmanager
def raised(kind, why="", **parts):
    """The block must raise that exception, whose text says `why`, with those attributes."""
    try:
        yield
    except kind as error:
        text, found = str(error), {name: getattr(error, name) for name in parts}
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert why in text
    assert found == parts


class Calls:
    """The calls of one library, in their order."""

    def __init__(self, library):
        self.library = library
        self._calls = []

    def call(self, what):
        """Register a function, which asserts; `what` names it for people."""

        def register(function):
            self._calls.append((what, function))
            return function

        return register

    def run(self):
        """Try all of them against the server at the URL that the command names."""
        url = sys.argv[1]
        for what, function in self._calls:
            try:
                found = function(url)
                if inspect.isawaitable(found):
                    asyncio.run(found)
                problem = ""
            except Exception:  # noqa: BLE001 - whatever a library raises is what a user would see
                problem = traceback.format_exc()
            print(json.dumps({"library": self.library, "call": what, "problem": problem}), flush=True)
