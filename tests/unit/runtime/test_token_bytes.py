"""The bytes of tokens, compared with those that llguidance finds in the same tokenizer."""

import llguidance
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from edgeml_runtime.generate.token_bytes import TokenizerBytes, token_bytes

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
NAMES = [*ALPHABET, *("Ġa", "Ġaa", "ä½", "Ċ", "12", '{"', "<|")]
MERGES = [("Ġ", "a"), ("Ġa", "a"), ("1", "2"), ("<", "|")]
TEXTS = (
    "",
    " aa a",
    "12 \n",
    '{"a": 12}',
    "naïve 北京 🙂",
    "<tool>a</tool>[TOOL]",
    "a<|end|>",
    "e\N{COMBINING ACUTE ACCENT}",
)


def byte_level(*, space=False, names=NAMES, split=False):
    """A byte-level tokenizer with added tokens, some of them special."""
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    made = Tokenizer(models.BPE(vocabulary, MERGES))
    level = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=not split)
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, level]) if split else level
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(it, special=False, normalized=False) for it in ("<tool>", "</tool>", "[TOOL]", "<a> ")])
    made.add_special_tokens(["<|end|>", "<|ü|>"])
    return made


def composed():
    """As Qwen's, which composes characters first."""
    made = byte_level()
    made.normalizer = normalizers.NFC()
    return made


@pytest.mark.parametrize(
    "made",
    [byte_level(), byte_level(split=True), composed()],
    ids=["plain", "digits", "composed"],
)
def test_tokens_have_the_bytes_that_llguidance_finds(made):
    """Of each token, whether it is special, and the tokens of texts; that is all that a form depends on."""
    stop, tokens = made.token_to_id("<|end|>"), token_bytes(made)
    assert tokens is not None
    ours = llguidance.LLTokenizer(TokenizerBytes(made, tokens, stop), slices=[])
    theirs = llguidance.LLTokenizer(made.to_str(), eos_token=stop, slices=[])
    assert (ours.vocab_size, ours.eos_token, ours.is_canonical) == (theirs.vocab_size, stop, theirs.is_canonical)
    for token in range(theirs.vocab_size):
        assert ours.decode_bytes([token]) == theirs.decode_bytes([token])
        assert ours.is_special_token(token) == theirs.is_special_token(token)
        assert ours.dbg_tokens([token]) == theirs.dbg_tokens([token])
    for text in TEXTS:
        for special in (False, True):
            found = ours.tokenize_str(text, parse_special=special)
            assert found == theirs.tokenize_str(text, parse_special=special)


def other(decoder, normalizer=None):
    """A tokenizer that isn't byte-level, or whose texts change before."""
    made = byte_level()
    made.decoder = decoder
    if normalizer:
        made.normalizer = normalizer
    return made


@pytest.mark.parametrize(
    "made",
    [
        other(decoders.Metaspace()),
        other(decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])),
        other(decoders.ByteLevel(), normalizers.Lowercase()),
        byte_level(space=True),
        byte_level(names=[*NAMES, "北"]),
        byte_level(names=[*NAMES, "a b"]),
        Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
    ],
    ids=["words", "byte fallback", "lower case", "space first", "no byte", "a space", "no decoder"],
)
def test_other_tokenizers_are_left_to_llguidance(made):
    """Their names don't tell their bytes, or a text alone has other tokens."""
    assert token_bytes(made) is None
