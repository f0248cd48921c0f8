"""A model folder's JSON files: configuration, tokenizer, image processing, pooling. No weights, no torch.

The fields that edgeml uses are decoded strictly, and all others ignored.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from tokenizers import Tokenizer

from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task
from edgeml_core.processing import (
    Activation,
    Classes,
    Postprocess,
    QuestionInput,
    Span,
    TensorOutput,
    TextInput,
    TokenClasses,
)

TOKENIZER: Final = "tokenizer.json"
#: Tokens of one text, where no file has a limit; BERT's.
TOKENS_MAX_DEFAULT: Final = 512
#: Labels without names; the largest known classifier has some 20,000.
LABELS_MAX: Final = 1_000_000
#: Tokens of a question with its context, and of an answer.
#: Source: transformers 4.57 `QuestionAnsweringPipeline`, its defaults.
QUESTION_TOKENS_MAX: Final = 384
ANSWER_TOKENS_MAX: Final = 15
#: Types of models that count positions from the padding token's id on, so that they have fewer for text.
#: Source: transformers 4.57, the models that call `create_position_ids_from_input_ids`.
_COUNTED_FROM_PADDING: Final = {
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
#: Types of models whose attention to a long text is in blocks, until the first short text makes it full for good.
_BLOCK_SPARSE: Final = ("big_bird", "bigbird_pegasus")
#: By the names of their files: sentence-transformers' first versions had one for each type of model.
_SENTENCE_CONFIGS: Final = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
T = TypeVar("T")


class Config(msgspec.Struct, frozen=True):
    """config.json."""

    architectures: tuple[str, ...] = ()
    model_type: str = ""
    id2label: dict[str, str] = {}
    num_labels: Annotated[int, msgspec.Meta(ge=1, le=LABELS_MAX)] | None = None
    problem_type: str | None = None
    max_position_embeddings: int | None = None
    n_positions: int | None = None
    pad_token_id: int | None = None
    #: Of each convolution in a model of sounds; other types of models have one number of another meaning.
    conv_kernel: tuple[int, ...] | int = ()
    conv_stride: tuple[int, ...] | int = ()
    auto_map: dict[str, object] | None = None
    #: Of an attention in blocks; other types of models have other things by these names.
    attention_type: object = "block_sparse"
    block_size: object = 64
    num_random_blocks: object = 3

    def __post_init__(self) -> None:
        if unfit := [key for key in self.id2label if not re.fullmatch("[0-9]{1,9}", key)]:
            raise ValueError(f"id2label has a label for {unfit[0][:20]!r}, which is no number")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels by index; as transformers does, those without a name get one, two by default."""
        named = self.id2label or {str(index): f"LABEL_{index}" for index in range(self.num_labels or 2)}
        return tuple(label for _, label in sorted(named.items(), key=lambda pair: int(pair[0])))

    @property
    def activation(self) -> Activation:
        """The function from a classifier's outputs to scores.

        Source: transformers 4.57 `TextClassificationPipeline` and `ImageClassificationPipeline`, held equal by a test.
        """
        if self.problem_type == "regression":
            return "none"
        is_independent = self.problem_type == "multi_label_classification" or len(self.labels) == 1
        return "sigmoid" if is_independent else "softmax"

    @property
    def positions(self) -> int | None:
        """The number of tokens for which the model has positions."""
        most = self.max_position_embeddings or self.n_positions
        if most and self.full_attention_tokens:
            return min(most, self.full_attention_tokens)
        if most and self.model_type in _COUNTED_FROM_PADDING:
            return most - (self.pad_token_id or 0) - 1
        return most

    @property
    def full_attention_tokens(self) -> int | None:
        """The most tokens that a model with attention in blocks reads in full; None for all other models.

        Source: transformers 4.57 `BigBirdModel.forward`.
        """
        is_sparse = self.model_type in _BLOCK_SPARSE and self.attention_type == "block_sparse"
        if is_sparse and isinstance(self.block_size, int) and isinstance(self.num_random_blocks, int):
            return (5 + 2 * self.num_random_blocks) * self.block_size
        return None


class _TokenizerConfig(msgspec.Struct, frozen=True):
    model_max_length: float | None = None
    max_len: float | None = None  # its name before transformers 3
    pad_token: str | dict[str, object] | None = None
    truncation_side: str | None = None


class _LoadedTokenizer(msgspec.Struct, frozen=True):
    model_max_length: float | None = None


class _SentenceConfig(msgspec.Struct, frozen=True):
    """sentence_bert_config.json. `processing_kwargs` are for each call of the tokenizer, by the kind of its input."""

    max_seq_length: int | None = None
    tokenizer_args: _LoadedTokenizer = _LoadedTokenizer()
    processor_kwargs: _LoadedTokenizer = _LoadedTokenizer()
    processing_kwargs: dict[str, dict[str, object]] = {}


def config(folder: Path) -> Config:
    """Read the folder's config.json.

    Raises:
        UsageError: `model-unreadable`, when it is missing or malformed.
    """
    found = read(folder / "config.json", Config)
    if found is None:
        raise UsageError("model-unreadable", f"{folder} has no config.json", "name a Hugging Face model's folder")
    return found


def text_input(folder: Path, destination: Path, given: Path | None = None) -> TextInput:
    """Read the preprocessing of texts, and write the tokenizer to `destination` without its own truncation and padding.

    Args:
        folder: the model's.
        destination: a file.
        given: the tokenizer's file; None takes the folder's own.

    Raises:
        UsageError: `model-unreadable`, when the folder has no usable tokenizer.json.
    """
    try:
        tokenizer = Tokenizer.from_file(str(given or folder / TOKENIZER))
    except Exception as error:  # tokenizers raises bare Exception
        hint = "save the fast tokenizer there: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        raise UsageError("model-unreadable", f"{folder} has no usable {TOKENIZER}: {error}", hint) from error
    own_side = (tokenizer.truncation or {}).get("direction")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(destination), pretty=False)
    settings = read(folder / "tokenizer_config.json", _TokenizerConfig) or _TokenizerConfig()
    token = settings.pad_token
    pad = token.get("content") if isinstance(token, dict) else token
    # A classifier that reads the last token finds it by the id in config.json.
    own = config(folder).pad_token_id
    return TextInput(
        tokenizer=TOKENIZER,
        max_length=_tokens_max(folder, settings),
        pad_id=(tokenizer.token_to_id(str(pad or "[PAD]")) or 0) if own is None or own < 0 else own,
        cut="left" if (settings.truncation_side or own_side) == "left" else msgspec.UNSET,
    )


def question_input(folder: Path, destination: Path) -> QuestionInput:
    """Read the preprocessing of a question with its context; see `text_input`."""
    text = text_input(folder, destination)
    limited = msgspec.structs.replace(text, max_length=min(text.max_length, QUESTION_TOKENS_MAX))
    return QuestionInput(**msgspec.structs.asdict(limited))


def note_tokens_without_vectors(tokenizer: Path, vectors: int) -> tuple[str, ...]:
    """Note for the card that the tokenizer gives ids that the model has no vector for, as tokens added too late are."""
    vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab()
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= vectors)
    if not beyond:
        return ()
    message = f"the model has {vectors} tokens, its tokenizer {len(beyond)} more, such as {beyond[0][1]!r}"
    return (f"{message}: a text with one of these fails, as in transformers",)


def note_full_attention(config: Config, text: TextInput) -> tuple[str, ...]:
    """Note for the card that texts are cut where a model's attention would be in blocks."""
    if text.max_length != config.full_attention_tokens:
        return ()
    why = "beyond, the original's attention is in blocks, until its first shorter text"
    return (f"texts are cut at {text.max_length} tokens: {why}",)


def _tokens_max(folder: Path, settings: _TokenizerConfig) -> int:
    """Count the tokens that are read: sentence-transformers puts its own limit in the place of the tokenizer's.

    Raises:
        UsageError: `model-unsupported`, for other settings of a call of the tokenizer.
    """
    files = (read(folder / f"sentence_{it}_config.json", _SentenceConfig) for it in _SENTENCE_CONFIGS)
    sentence = next((it for it in files if it is not None), _SentenceConfig())
    loaded = [it.model_max_length for it in (sentence.tokenizer_args, sentence.processor_kwargs)]
    given = (_called(sentence), *loaded, sentence.max_seq_length, settings.model_max_length, settings.max_len)
    own = [limit for it in given for limit in _limits(it)][:1]
    return min((*own, *_limits(config(folder).positions)), default=TOKENS_MAX_DEFAULT)


def _called(sentence: _SentenceConfig) -> float | None:
    """Read the limit of each call of the tokenizer, which takes the place of all others."""
    calls = sentence.processing_kwargs
    limits = [call["max_length"] for kind in ("text", "common") if "max_length" in (call := calls.get(kind, {}))]
    others = [f"{kind}.{name}" for kind, call in calls.items() for name in call if name != "max_length"]
    if others or any(not isinstance(it, int) for it in limits) or len({*map(str, limits)}) > 1:
        named = ", ".join(others) or " and ".join(map(str, limits))
        message = f"sentence_bert_config.json has processing_kwargs that edgeml doesn't apply: {named}"
        raise UsageError("model-unsupported", message, "leave them out, set max_seq_length, and save the model again")
    return next((it for it in limits if isinstance(it, int)), None)


def _limits(limit: float | None) -> tuple[int, ...]:
    """Return a limit, or none: tokenizers without one have 1e30."""
    return (int(limit),) if limit and math.isfinite(limit) and 1 <= limit < 1e9 else ()


def postprocess(folder: Path, task: Task, output: str, *more: str) -> Postprocess:
    """Describe the postprocessing of a task.

    Args:
        folder: the model's.
        task: known to be of this model.
        output: the name of the first output.
        more: the names of further outputs.

    Raises:
        UsageError: `model-unreadable`, when a configuration file is malformed.
    """
    found = config(folder)
    match task:
        case "text-classification" | "image-classification" | "audio-classification":
            return Classes(output=output, labels=found.labels, activation=found.activation)
        case "token-classification":
            return TokenClasses(output=output, labels=found.labels)
        case "question-answering" if more:
            return Span(start=output, end=more[0], max_tokens=ANSWER_TOKENS_MAX)
        case _:
            return TensorOutput()


def read(path: Path, kind: type[T]) -> T | None:
    """Decode a JSON file; None when there is no such file.

    Raises:
        UsageError: `model-unreadable`, when it is malformed.
    """
    try:
        return decoding.from_json(path.read_bytes(), kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("model-unreadable", f"{path} can't be read: {error}", "repair or restore the file") from error
