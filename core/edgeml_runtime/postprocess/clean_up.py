"""Decoded text without the spaces before punctuation, as some tokenizers of transformers clean it up."""

from __future__ import annotations

from typing import Final

#: Texts that cleaning up replaces, in this order, and their replacements.
#: Source: transformers 4.57 `PreTrainedTokenizerBase.clean_up_tokenization`.
_CLEANED: Final = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def cleaned(text: str) -> str:
    """Drop the spaces."""
    for given, replacement in _CLEANED:
        text = text.replace(given, replacement)
    return text
