"""Tokens to text as they come: nothing is given out that a later token changes."""

import pytest
from tokenizers import Tokenizer, decoders, models

from edgeml_runtime.generate.detokenizer import Detokenizer

_BYTES = "the pump hall € two".encode()


_WORD = 256


def byte_tokenizer():
    """One token a byte, as byte-level tokenizers spell what they never learnt, and a word."""
    tokens = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"word": _WORD}
    made = Tokenizer(models.BPE(tokens, [], byte_fallback=True))
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


def test_add_returns_a_character_when_it_is_complete():
    """Three bytes make one euro."""
    assert pieces("a€b".encode()) == ["a", "", "", "€", "b", ""]


def test_add_half_a_character_keeps_the_one_before():
    """Such a tokenizer spells a row of bytes as nothing but broken ones until all of it is whole."""
    assert pieces("ü€".encode()) == ["", "ü", "", "", "€", ""]


def test_rest_returns_bytes_that_form_no_character():
    """As the replacement that any decoder gives."""
    assert pieces(b"ab\xe2\x82") == ["a", "b", "", "", "\N{REPLACEMENT CHARACTER}" * 2]


@pytest.mark.parametrize("given", [b"", "ü".encode()])
@pytest.mark.parametrize("text", ["", "ü", "ü€😀"])
def test_add_a_broken_byte_changes_nothing_before_it(given, text):
    """The tokenizer then spells each byte of the row as a broken one: they came again, behind what they stand for."""
    found = pieces([*text.encode(), 0x80, _WORD], given=given)
    assert "".join(found[:-2]) == text
    assert found[-2:] == ["\N{REPLACEMENT CHARACTER}word", ""]


def test_add_a_stop_sequence_behind_a_broken_byte():
    """It is found where the text is, as it was given out."""
    assert "".join(pieces([*"ü€ ".encode(), 0x80, _WORD, _WORD], stop=("word",))) == "ü€ \N{REPLACEMENT CHARACTER}"


def test_add_leaves_out_the_prompt():
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
def test_add_stop_sequence_ends_the_text(text, stop, expected):
    """The first that comes counts; no part of it was given out before it was known to be one."""
    assert "".join(pieces(text.encode(), stop=stop)) == expected


def test_add_holds_back_only_a_possible_stop():
    """It comes with the character that decides."""
    assert pieces(b"a tx", stop=("two",)) == ["a", " ", "", "tx", ""]
