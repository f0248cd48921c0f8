"""Decoding into declared types, by several threads that use a type for the first time."""

import sys
from threading import Barrier, Thread

import msgspec
import pytest

from edgeml_core import decoding
from support.own_process import in_own_process

THREADS = 4
TYPES = 60


@pytest.mark.parametrize(
    "decode",
    [
        lambda kind: decoding.from_json(b'{"last":{"text":"a"}}', kind).last.text,
        lambda kind: decoding.from_msgpack(b"\x81\xa4last\x81\xa4text\xa1a", kind).last.text,
        lambda kind: decoding.convert({"last": {"text": "a"}}, kind).last.text,
    ],
    ids=["json", "msgpack", "convert"],
)
def test_values_are_decoded_into_the_type(decode):
    """All three ways give the same."""
    assert decode(_types(1)[0]) == "a"


def test_threads_decode_a_type_for_the_first_time():
    """It ended the process: msgspec lets a second thread use a type whose fields the first one still prepares."""
    assert in_own_process(_decode_in_threads) == THREADS * TYPES


def test_what_has_another_type_is_refused():
    """The exceptions are msgspec's."""
    with pytest.raises(msgspec.ValidationError, match="Expected `int`, got `str`"):
        decoding.from_json(b'{"a": "1"}', dict[str, int])
    with pytest.raises(msgspec.DecodeError, match="truncated"):
        decoding.from_json(b"{", dict[str, int])


def _decode_in_threads():
    sys.setswitchinterval(1e-6)
    decoded = []
    for kind in _types(TYPES):
        barrier = Barrier(THREADS)

        def decode(kind=kind, barrier=barrier):
            barrier.wait()
            decoded.append(decoding.from_json(b'{"last":{"text":"a"}}', kind).last.text)

        threads = [Thread(target=decode) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return decoded.count("a")


def _types(number):
    """Types of a struct in a struct: those inside are prepared after those that have them."""
    made = []
    for at in range(number):
        parts = [
            msgspec.defstruct(f"Part{at}_{part}", [(f"it{field}", list[int], ()) for field in range(20)])
            for part in range(5)
        ]
        last = msgspec.defstruct(f"Last{at}", [("text", str)])
        fields = [(f"part{part}", it | None, None) for part, it in enumerate(parts)]
        made.append(msgspec.defstruct(f"Whole{at}", [*fields, ("last", last)], kw_only=True))
    return made
