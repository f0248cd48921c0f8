"""Tiny tokenizers of translators: Marian's with SentencePiece models of two languages, and NLLB's for many."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import sentencepiece
import transformers

from edgeml.check.sample_texts import SENTENCES

#: The mark of a language, as models for several have it.
CODE: Final = ">>deu<<"
_PIECES: Final = 160


def tokenizer(work: Path, tokens: int) -> transformers.MarianTokenizer:
    """Make it, of texts with at most `tokens`; half of the sentences stand for each language."""
    work.mkdir(parents=True, exist_ok=True)
    files = [work / name for name in ("source.spm", "target.spm", "vocab.json")]
    pieces = {it for half, file in enumerate(files[:2]) for it in _trained(SENTENCES[half::2], file)}
    special = ("</s>", "<unk>")
    named = [*special, *sorted(pieces - {*special, "<s>"}), CODE, "<pad>"]
    files[2].write_text(json.dumps({piece: number for number, piece in enumerate(named)}))
    return transformers.MarianTokenizer(*map(str, files), model_max_length=tokens)


def of_many_languages(work: Path, tokens: int) -> transformers.NllbTokenizerFast:
    """Make NLLB's tokenizer for German texts, of at most `tokens`."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "sentencepiece.bpe.model"
    _trained(SENTENCES, file)
    return transformers.NllbTokenizerFast(str(file), src_lang="deu_Latn", model_max_length=tokens)


def _trained(texts: Iterable[str], file: Path) -> list[str]:
    """Train a model of unigrams; its pieces."""
    held = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=held,
        vocab_size=_PIECES,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    file.write_bytes(held.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=held.getvalue())
    return [model.id_to_piece(number) for number in range(model.vocab_size())]
