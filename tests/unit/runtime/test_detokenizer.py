"""Tokens to text as they come: nothing is given out that a later token changes."""

import pytest
from tokenizers import Tokenizer, decoders, models

from edgeml_runtime.generate.detokenizer import Detokenizer

_BYTES = "the pump hall € two".encode()


def byte_tokenizer():
    """One token a byte, as byte-level tokenizers spell what they never learnt."""
    made = Tokenizer(models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, [], byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return made


def pieces(text, *, given=b"", stop=()):
    """What each byte of `text` gives out, and at last the rest."""
    detokenizer = Detokenizer(byte_tokenizer().decode, list(given), stop)
    found = []
    for byte in text:
        found.append(detokenizer.add(byte))
        if detokenizer.stopped:
            return found
    return [*found, detokenizer.rest()]


def test_a_character_comes_when_it_is_whole():
    """Three bytes make one euro."""
    assert pieces("a€b".encode()) == ["a", "", "", "€", "b", ""]


def test_a_character_that_came_stays_while_the_next_is_broken():
    """Such a tokenizer spells a row of bytes as nothing but broken ones until all of it is whole."""
    assert pieces("ü€".encode()) == ["", "ü", "", "", "€", ""]


def test_what_never_becomes_a_character_comes_in_the_end():
    """As the replacement that any decoder gives."""
    assert pieces(b"ab\xe2\x82") == ["a", "b", "", "", "\N{REPLACEMENT CHARACTER}" * 2]


def test_the_prompt_is_not_repeated():
    """Only what follows it is given out, after prompts shorter and longer than what is spelled along."""
    for given in (b"a", b"a long prompt of many tokens"):
        assert "".join(pieces(_BYTES, given=given)) == _BYTES.decode()


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("three", "two t"), "one "),
        ("one two three", ("four",), "one two three"),
        ("one tw", ("two",), "one tw"),
        ("aaab", ("aab",), "a"),
        ("two", ("two",), ""),
        ("a€b", ("€",), "a"),
    ],
)
def test_the_text_ends_before_a_stop(text, stop, expected):
    """The first that comes counts; no part of it was given out before it was known to be one."""
    assert "".join(pieces(text.encode(), stop=stop)) == expected


def test_what_may_become_a_stop_is_held_back_no_longer_than_that():
    """It comes with the character that decides."""
    assert pieces(b"a tx", stop=("two",)) == ["a", " ", "", "tx", ""]
