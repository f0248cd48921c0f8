"""The text and the bytes of a token, as they stand within a text."""

import pytest
from tokenizers import Tokenizer, decoders, models

from edgeml_runtime.generate.logprobs import TokenTexts


def llama_tokenizer():
    """Spaces are written as in Llama's first tokenizer, whose decoder drops the one in front of a text."""
    made = Tokenizer(
        models.BPE({"</s>": 0, "▁": 1, "▁▁": 2, "▁the": 3, "pump": 4, "<0xE2>": 5}, [], byte_fallback=True)
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.add_special_tokens(["</s>"])
    return made


@pytest.mark.parametrize(
    ("token", "text", "data"),
    [
        (0, "</s>", b"</s>"),
        (1, " ", b" "),
        (2, "  ", b"  "),
        (3, " the", b" the"),
        (4, "pump", b"pump"),
        (5, "\N{REPLACEMENT CHARACTER}", b"\xe2"),
    ],
)
def test_named_gives_the_text_within_a_text(token, text, data):
    """Also of a lone space, which is nothing at the beginning of one; a special token has its name."""
    found = TokenTexts(llama_tokenizer()).named(token, -1.0)
    assert (found["token"], bytes(found["bytes"])) == (text, data)
