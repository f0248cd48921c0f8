"""Marian's tokenizer as two files of the tokenizers library, since transformers has no fast form of it.

A SentencePiece model splits the text that the encoder reads, and a vocabulary of both languages gives its pieces their
ids. Pieces of the other language must not split a text, so the decoder's tokens have a file of their own.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.torch_session import ERROR_CHARS
from edgeml_core.errors import UsageError

#: The decoder's tokens in a bundle.
TARGET: Final = "target-tokenizer.json"
#: transformers' name of the model that splits a text.
_SOURCE_MODEL: Final = "source.spm"
#: SentencePiece's numbers of a model of scored pieces, and of a usual piece among special ones.
_UNIGRAM: Final = 1
_NORMAL: Final = 1
#: SentencePiece's score of an unknown character below that of the worst piece.
_UNKNOWN_PENALTY: Final = 10.0
_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
#: A character of no language, which no vocabulary has.
_UNKNOWN: Final = "\uffff"
#: The beginning of pieces that no text has, since SentencePiece drops this character.
_ABSENT: Final = "\0"


def is_given(path: Path) -> bool:
    """Return whether a folder has Marian's tokenizer, and no tokenizer.json instead."""
    return (path / _SOURCE_MODEL).exists() and not (path / folders.TOKENIZER).exists()


def write(path: Path, source: Path, target: Path) -> tuple[str, ...]:
    """Write both tokenizers; return notes for the card.

    Args:
        path: the model's folder.
        source: the file for texts that the encoder reads.
        target: the file for tokens that the decoder writes.

    Raises:
        UsageError: `extra-missing`, without SentencePiece; `model-unreadable`; `model-unsupported`, for another kind of
            SentencePiece model.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2 as sentencepiece  # noqa: PLC0415 -- no extra needs it
    except ImportError as error:
        message = f"{path} has a tokenizer of SentencePiece, which is not installed"
        raise UsageError("extra-missing", message, "pip install sentencepiece") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers recommends sacremoses
            original = transformers.MarianTokenizer.from_pretrained(path, local_files_only=True)
        data = (path / _SOURCE_MODEL).read_bytes()
        pieces = sentencepiece.ModelProto.FromString(data)  # type: ignore[attr-defined] # protobuf adds it
    except Exception as error:  # transformers and protobuf let errors of many kinds pass
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        message = f"transformers can't load {path}'s tokenizer: {reason}"
        raise UsageError("model-unreadable", message, "save the tokenizer again") from error
    if pieces.trainer_spec.model_type != _UNIGRAM:
        message = f"{path / _SOURCE_MODEL} is no unigram model, as Marian's are"
        raise UsageError("model-unsupported", message, f"save a {folders.TOKENIZER} beside it")
    scores = {it.piece: it.score for it in pieces.pieces if it.type == _NORMAL}
    _source(original, scores, pieces.normalizer_spec).save(str(source), pretty=False)
    _target(original).save(str(target), pretty=False)
    return tuple(_notes(scores.keys() - original.encoder.keys()))


def _notes(absent: set[str]) -> Iterator[str]:
    yield "transformers changes punctuation by sacremoses first, where it is installed; the bundle doesn't"
    if absent:
        yield f"{len(absent)} pieces of {_SOURCE_MODEL} have no token: texts with them are split in another way"


def _source(original: Any, scores: Mapping[str, float], spec: Any) -> Tokenizer:  # noqa: ANN401 -- transformers has no types here
    """Make the tokenizer of texts, with the scores of its pieces by their ids in the vocabulary."""
    codes = [it for it in original.supported_language_codes if it in original.encoder]
    kept = {*codes, *original.all_special_tokens}
    lowest = min(scores.values(), default=0.0) - _UNKNOWN_PENALTY
    size = 1 + max(original.encoder.values())
    vocabulary = [(f"{_ABSENT}{number}", lowest) for number in range(size)]
    for piece, number in original.encoder.items():
        if piece in scores:
            vocabulary[number] = piece, scores[piece]
        elif piece in kept or len(piece) == 1:  # an unknown character alone keeps its token, as in SentencePiece
            vocabulary[number] = piece, lowest
    made = Tokenizer(models.Unigram(vocabulary, unk_id=original.unk_token_id))
    known = re.escape("".join(piece for piece in scores if len(piece) == 1))
    steps: list[Any] = [
        normalizers.Strip(),
        normalizers.Replace(Regex(" {2,}"), " "),
        normalizers.Replace(Regex(f"[^ {known}]{{2,}}"), _UNKNOWN),  # unknown characters side by side are one piece
    ]
    if spec.precompiled_charsmap:
        steps.insert(0, normalizers.Precompiled(spec.precompiled_charsmap))
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    made.add_special_tokens([*original.all_special_tokens])
    made.add_tokens([AddedToken(code, normalized=False) for code in codes])
    end = original.eos_token
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, original.eos_token_id)]
    )
    return made


def _target(original: Any) -> Tokenizer:  # noqa: ANN401 -- as above
    """Make the tokenizer of the decoder's tokens, which only joins them."""
    vocabulary = {piece: number for number, piece in original.decoder.items()}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=original.unk_token))
    made.add_special_tokens([*original.all_special_tokens])
    made.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    return made
