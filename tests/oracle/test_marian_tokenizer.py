"""Marian's tokenizer in two files gives the tokens and texts of transformers' own, which has SentencePiece."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edgeml.check.sample_texts import SENTENCES
from edgeml.exporters.huggingface import marian_tokenizer
from edgeml.oracle.hard_items import TEXTS
from edgeml_core.errors import UsageError
from support import tiny_marian

HARD = (
    *TEXTS,
    "",
    "   ",
    " a  b \t c ",
    f"{tiny_marian.CODE} Hello there",
    f"{tiny_marian.CODE}Hello",
    "<unk> and </s> in it",
    "Ωmega ± 3 \N{NO-BREAK SPACE}…“quoted”—dash",
    "\N{LATIN SMALL LIGATURE FI}ne \N{CIRCLED DIGIT ONE}",
    "\N{LOWER ONE EIGHTH BLOCK}a\N{ZERO WIDTH SPACE}b",
)
SEED = 1
RANDOM_TEXTS = 200


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The one of transformers, without the package that changes punctuation where it is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sacremoses", None)
        with pytest.warns(UserWarning, match="sacremoses"):
            return tiny_marian.tokenizer(tmp_path_factory.mktemp("made"), 256)


@pytest.fixture
def written(original, tmp_path: Path):
    """Both files, opened."""
    original.save_pretrained(tmp_path / "model")
    source, target = tmp_path / "source.json", tmp_path / "target.json"
    assert marian_tokenizer.is_given(tmp_path / "model")
    (note,) = marian_tokenizer.write(tmp_path / "model", source, target)
    assert "sacremoses" in note
    return Tokenizer.from_file(str(source)), Tokenizer.from_file(str(target))


def test_texts_have_the_tokens_of_sentencepiece(original, written):
    """Also letters that one language or neither has, alone and side by side."""
    letters = sorted({it for text in SENTENCES for it in text} | set(" .,αβÄ→水"))
    drawn = random.Random(SEED)  # noqa: S311 -- the same each time
    mixed = ["".join(drawn.choices(letters, k=drawn.randint(1, 40))) for _ in range(RANDOM_TEXTS)]
    for text in (*SENTENCES, *HARD, *mixed):
        assert written[0].encode(text).ids == original(text)["input_ids"], text


def test_tokens_have_the_text_of_sentencepiece(original, written):
    """Without special ones; white space at the ends is no part of transformers' text."""
    drawn = random.Random(SEED)  # noqa: S311 -- the same each time
    for _ in range(RANDOM_TEXTS):
        ids = drawn.choices(range(original.vocab_size), k=drawn.randint(0, 15))
        expected = original.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert written[1].decode(ids, skip_special_tokens=True).strip() == expected


def test_a_tokenizer_that_is_broken_is_refused(original, tmp_path: Path):
    """With transformers' own reason."""
    original.save_pretrained(tmp_path)
    (tmp_path / "source.spm").write_bytes(b"no model")
    with pytest.raises(UsageError, match="can't load") as caught:
        marian_tokenizer.write(tmp_path, tmp_path / "a.json", tmp_path / "b.json")
    assert caught.value.code == "model-unreadable"


def test_pieces_without_a_token_are_named(original, tmp_path: Path):
    """Texts with them are split in another way, so the card says how many there are."""
    original.save_pretrained(tmp_path)
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(vocabulary.read_text().replace('"e":', '"absent":'))
    *_, note = marian_tokenizer.write(tmp_path, tmp_path / "a.json", tmp_path / "b.json")
    assert note.startswith("1 pieces of source.spm have no token")
