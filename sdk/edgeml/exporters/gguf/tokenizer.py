"""The tokenizer in a GGUF file, built as a tokenizer.json with its settings: byte-level BPE, or SentencePiece's BPE.

The file names its pre-tokenizer and leaves the rest to llama.cpp's code. Those that are known to be equal to the
models' own are in a table; others would give other tokens silently, so they are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgeml.exporters.gguf.container import Container, Value, unreadable, unsupported
from edgeml.exporters.gguf.entries import Entries

_TEMPLATE: Final = "chat_template"
#: Types of tokens in the file. Source: llama.cpp's `llama_token_type`.
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
#: Texts of tokens that end an answer wherever a vocabulary has them as control tokens. Source: llama.cpp's
#: llama-vocab.cpp, which takes others, too: Qwen's `</s>` is plain text to the model's own tokenizer.
_ENDS: Final = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>"}
    | {"<|end_of_text|>", "<end_of_utterance>", "<eos>"}
)
#: Entries that name a token which ends an answer.
_END_IDS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
#: Entries that are read, and those that concern no generated text: infilling, padding and classifiers.
_READ: Final = frozenset(
    {"model", "pre", "tokens", "token_type", "scores", "merges", "add_bos_token", "add_space_prefix", "bos_token_id"}
    | {*_END_IDS}
)
_IDLE: Final = frozenset(
    {"unknown_token_id", "padding_token_id", "seperator_token_id", "separator_token_id", "cls_token_id"}
    | {"mask_token_id", "prefix_token_id", "suffix_token_id", "middle_token_id"}
    | {f"fim_{part}_token_id" for part in ("pre", "suf", "mid", "pad", "rep", "sep")}
)
#: Switches that must be off.
_OFF: Final[Mapping[str, Value]] = dict.fromkeys(("add_eos_token", "add_sep_token", "remove_extra_whitespaces"), False)
_DIGITS: Final = pre_tokenizers.Digits(individual_digits=True)
_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"


@dataclass(frozen=True)
class _PreTokenizer:
    """How a byte-level BPE splits texts before it merges.

    Args:
        steps: before the bytes.
        by_words: whether GPT-2's expression splits behind them.
        begins: whether prompts begin with a token of their own, unless the file says otherwise.
        whole: whether a word that is a token is never merged from parts.
        composed: whether accents are composed (NFC) first, as the models' own tokenizers do and llama.cpp doesn't.
    """

    steps: tuple[Any, ...] = ()
    by_words: bool = True
    begins: bool = False
    whole: bool = False
    composed: bool = False


def _words(digits: str) -> Any:  # noqa: ANN401 -- tokenizers has no types here
    """Split by the expression of Llama 3 and Qwen 2, which differ in the digits that stay together."""
    expression = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Split(Regex(expression), behavior="isolated", invert=False)


_LLAMA3: Final = _PreTokenizer(steps=(_words("{1,3}"),), by_words=False, begins=True, whole=True)
#: By the file's `tokenizer.ggml.pre`. Source: these models' tokenizer.json, as llama.cpp's code quotes them.
_PRE_TOKENIZERS: Final = {
    "gpt-2": _PreTokenizer(),
    "smollm": _PreTokenizer(steps=(_DIGITS,)),
    "starcoder": _PreTokenizer(steps=(_DIGITS,)),
    "refact": _PreTokenizer(steps=(_DIGITS,)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _PreTokenizer(steps=(_words(""),), by_words=False, composed=True),
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer with what transformers' files have beside it.

    Args:
        settings: tokenizer_config.json.
        size: the number of tokens.
        ends: ids of the tokens that end an answer.
        begin: the id of the token that begins prompts, where there is one.
    """

    tokenizer: Tokenizer
    settings: Mapping[str, Any]
    size: int
    ends: tuple[int, ...]
    begin: int | None


def build(container: Container, context: int) -> Vocabulary:
    """Build the tokenizer.

    Args:
        container: the file.
        context: the most tokens that the model takes.

    Raises:
        UsageError: `model-unsupported`, for another kind of tokenizer; or `model-unreadable`.
    """
    return _Builder(container).vocabulary(context)


class _Builder:
    def __init__(self, container: Container) -> None:
        self._path = container.path
        self._templates = Entries(container, "tokenizer.")
        self._entries = Entries(container, "tokenizer.ggml.")
        self._entries.check_known(_READ | _IDLE, _OFF)
        self._tokens = self._entries.items("tokens", str)
        self._ids = {token: at for at, token in enumerate(self._tokens)}
        if len(self._ids) != len(self._tokens):
            raise unsupported(self._path, f"has {len(self._tokens) - len(self._ids)} tokens twice")
        self._types = self._entries.items("token_type", int)
        if len(self._types) != len(self._tokens):
            raise unreadable(self._path, f"has {len(self._types)} types for {len(self._tokens)} tokens")

    def vocabulary(self, context: int) -> Vocabulary:
        kind = self._entries.text("model")
        if kind == "gpt2":
            tokenizer, begins = self._byte_level()
        elif kind == "llama":
            tokenizer, begins = self._sentencepiece()
        else:
            raise unsupported(self._path, f"has a tokenizer of the kind {kind!r}; edgeml reads 'gpt2' and 'llama'")
        self._add_tokens(tokenizer)
        begin = self._id("bos_token_id")
        if self._entries.flag("add_bos_token", default=begins):
            if begin is None:
                raise unreadable(self._path, "begins prompts with a token that it doesn't name")
            named = {"id": "begin", "ids": [begin], "tokens": [self._tokens[begin]]}
            tokenizer.post_processor = processors.TemplateProcessing(["begin", "$A"], special_tokens=[named])
        ends = [self._id(name) for name in _END_IDS]
        ends += [at for at, text in enumerate(self._tokens) if text in _ENDS and self._types[at] == _CONTROL]
        return Vocabulary(
            tokenizer=tokenizer,
            settings=self._settings(begin, context),
            size=len(self._tokens),
            ends=tuple(sorted({it for it in ends if it is not None})),
            begin=begin,
        )

    def _byte_level(self) -> tuple[Tokenizer, bool]:
        name = self._entries.values.get("pre")
        if name not in _PRE_TOKENIZERS:
            known = ", ".join(_PRE_TOKENIZERS)
            raise unsupported(self._path, f"splits texts by the pre-tokenizer {name!r}; edgeml knows {known}")
        if self._entries.flag("add_space_prefix", default=False):
            raise unsupported(self._path, "puts a space before texts, with a byte-level tokenizer")
        if foreign := set(self._types) - {_NORMAL, _CONTROL, _USER, _UNUSED}:
            raise unsupported(self._path, f"has tokens of the type {min(foreign)} in a byte-level tokenizer")
        pre = _PRE_TOKENIZERS[str(name)]
        merges = [self._pair(it) for it in self._entries.items("merges", str)]
        tokenizer = self._tokenizer(merges, ignore_merges=pre.whole)
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre.by_words)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*pre.steps, by_bytes])
        tokenizer.decoder = decoders.ByteLevel()
        if pre.composed:
            tokenizer.normalizer = normalizers.NFC()
        return tokenizer, pre.begins

    def _pair(self, merge: str) -> tuple[str, str]:
        left, space, right = merge.partition(" ")
        if not (left and space and right) or left + right not in self._ids:
            raise unreadable(self._path, f"has the merge {merge[:40]!r}, whose result is no token")
        return left, right

    def _sentencepiece(self) -> tuple[Tokenizer, bool]:
        scores = self._entries.items("scores", float)
        if len(scores) != len(self._tokens):
            raise unreadable(self._path, f"has {len(scores)} scores for {len(self._tokens)} tokens")
        by_byte = {token for token, kind in zip(self._tokens, self._types, strict=True) if kind == _BYTE}
        if lacking := [it for it in range(256) if f"<0x{it:02X}>" not in by_byte]:
            raise unsupported(self._path, f"has no token for the byte {lacking[0]:#04x}")
        unknown = self._types.index(_UNKNOWN) if _UNKNOWN in self._types else None
        mark = None if unknown is None else self._tokens[unknown]
        tokenizer = self._tokenizer(self._merges(scores), unk_token=mark, fuse_unk=True, byte_fallback=True)
        steps = [normalizers.Replace(" ", _SPACE)]
        ends = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if self._entries.flag("add_space_prefix", default=True):
            steps.insert(0, normalizers.Prepend(_SPACE))
            ends.append(decoders.Strip(" ", 1, 0))
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.decoder = decoders.Sequence(ends)
        return tokenizer, True

    def _merges(self, scores: Sequence[float]) -> list[tuple[str, str]]:
        """Order the ways to make each token from two others as SentencePiece does: by the score of the result.

        Only runs of spaces share a score. Of those SentencePiece makes the leftmost one longer, and so does this order:
        the longest left part first, then the longest right part.
        """
        pieces = {token: scores[at] for at, token in enumerate(self._tokens) if self._types[at] == _NORMAL}
        made = [
            (token[:at], token[at:])
            for token in pieces
            for at in range(1, len(token))
            if token[:at] in pieces and token[at:] in pieces
        ]
        by_score: dict[float, str] = {}
        for left, right in made:
            token = left + right
            other = by_score.setdefault(pieces[token], token)
            if other != token and {*other, *token} != {_SPACE}:
                raise unsupported(self._path, f"has tokens of the same score, {other!r} and {token!r}")
        return sorted(made, key=lambda it: (-pieces[it[0] + it[1]], -len(it[0]), -len(it[1])))

    def _tokenizer(self, merges: list[tuple[str, str]], **options: Any) -> Tokenizer:  # noqa: ANN401 -- as above
        try:
            return Tokenizer(models.BPE(self._ids, merges, **options))
        except Exception as error:  # tokenizers raises bare Exception
            raise unreadable(self._path, f"has a tokenizer that can't be built: {error}") from error

    def _add_tokens(self, tokenizer: Tokenizer) -> None:
        """Add the tokens that are found in texts before all others."""
        for kind, is_special in ((_CONTROL, True), (_UNKNOWN, True), (_USER, False)):
            found = [token for token, its in zip(self._tokens, self._types, strict=True) if its == kind]
            tokenizer.add_tokens([AddedToken(it, special=is_special, normalized=False) for it in found])
        if tokenizer.get_vocab_size(with_added_tokens=True) != len(self._tokens):
            raise unreadable(self._path, "has tokens that the tokenizer can't hold")

    def _settings(self, begin: int | None, context: int) -> dict[str, Any]:
        named = {"bos_token": begin, "eos_token": self._id("eos_token_id"), "pad_token": self._id("padding_token_id")}
        settings: dict[str, Any] = {name: self._tokens[it] for name, it in named.items() if it is not None}
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        settings["model_max_length"] = context
        if _TEMPLATE in self._templates.values:
            settings[_TEMPLATE] = self._templates.text(_TEMPLATE)
        if others := [key for key in self._templates.values if key.startswith(f"{_TEMPLATE}.")]:
            named_ones = {key.removeprefix(f"{_TEMPLATE}."): self._templates.text(key) for key in others}
            named_ones |= {"default": settings[_TEMPLATE]} if _TEMPLATE in settings else {}
            settings[_TEMPLATE] = [{"name": name, "template": it} for name, it in named_ones.items()]
        return settings

    def _id(self, name: str) -> int | None:
        is_named = name in self._entries.values
        return self._entries.integer(name, least=0, most=len(self._tokens) - 1) if is_named else None
