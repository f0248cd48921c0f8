"""A sentence-transformers folder's own files: modules, pooling, prompt, a cross-encoder's activation. No weights.

A folder without them is read as `folder` reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.huggingface.folder import read
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task
from edgeml_core.processing import Activation, Classes, Embedding, Postprocess, TextInput

#: Modules that a bundle can express; each other one has weights or code of its own.
_KNOWN: Final = frozenset({"Transformer", "Pooling", "Normalize"})
#: By the name of its class in torch.
_ACTIVATIONS: Final[dict[str, Activation]] = {"Sigmoid": "sigmoid", "Identity": "none"}
_HINT: Final = "export the whole encoder as file.py:function, or train it with mean or cls pooling"


class _Module(msgspec.Struct, frozen=True):
    type: str
    path: str


class _Pooling(msgspec.Struct, frozen=True):
    """The pooling's file; version 5 has `pooling_mode`, the versions before a switch for each mode."""

    pooling_mode: str | tuple[str, ...] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes in use; the vectors of several are joined."""
        if self.pooling_mode is not None:
            return (self.pooling_mode,) if isinstance(self.pooling_mode, str) else self.pooling_mode
        switches = {
            "cls": self.pooling_mode_cls_token,
            "mean": self.pooling_mode_mean_tokens,
            "max": self.pooling_mode_max_tokens,
            "mean_sqrt_len_tokens": self.pooling_mode_mean_sqrt_len_tokens,
            "weightedmean": self.pooling_mode_weightedmean_tokens,
            "lasttoken": self.pooling_mode_lasttoken,
        }
        return tuple(mode for mode, is_on in switches.items() if is_on)


class _Prompts(msgspec.Struct, frozen=True):
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    model_type: str = ""
    activation_fn: str | None = None


class _CrossEncoder(msgspec.Struct, frozen=True):
    """The part of config.json in which sentence-transformers before 5.4 keeps a cross-encoder's settings."""

    activation_fn: str | None = None


class _Config(msgspec.Struct, frozen=True):
    sentence_transformers: _CrossEncoder | None = None
    sbert_ce_default_activation_function: str | None = None


def preprocess(folder: Path, task: Task, destination: Path) -> TextInput:
    """Read the preprocessing of texts, or of questions, with the prompt of vectors: see `folder.text_input`."""
    if task == "question-answering":
        return folders.question_input(folder, destination)
    text = folders.text_input(folder, destination)
    first = prompt(folder) if task == "feature-extraction" else ""
    return msgspec.structs.replace(text, prompt=first) if first else text


def postprocess(folder: Path, task: Task, output: str, *more: str) -> Postprocess:
    """Describe the postprocessing of a task of texts: see `folder.postprocess`.

    Raises:
        UsageError: `model-unsupported`, when a bundle can't express it; `model-unreadable`.
    """
    if task == "feature-extraction":
        return embedding(folder, output)
    found = folders.postprocess(folder, task, output, *more)
    if task == "text-classification" and isinstance(found, Classes) and len(found.labels) == 1:
        return msgspec.structs.replace(found, activation=cross_encoder_activation(folder) or found.activation)
    return found


def pooled(output: str) -> Embedding:
    """Describe the vectors of an output that has one for each item."""
    return Embedding(output=output, pooling="cls", normalize=False)


def embedding(folder: Path, output: str) -> Embedding:
    """Read pooling and normalization; a folder without modules gets the mean, not normalized.

    Raises:
        UsageError: `model-unsupported`, when a bundle can't express the modules; `model-unreadable`.
    """
    settings = read(folder / "config_sentence_transformers.json", _Prompts) or _Prompts()
    if settings.truncate_dim is not None:
        message = f"the encoder cuts its vectors (truncate_dim {settings.truncate_dim}), and a bundle gives whole ones"
        hint = "set truncate_dim to null in config_sentence_transformers.json, and cut the vectors that come back"
        raise UsageError("model-unsupported", message, hint)
    modules = read(folder / "modules.json", tuple[_Module, ...]) or ()
    paths = {module.type.rsplit(".", 1)[-1]: module.path for module in modules}
    if unknown := paths.keys() - _KNOWN:
        raise _unsupported(f"the folder has further modules: {', '.join(sorted(unknown))}")
    pooling = read(folder / paths.get("Pooling", "1_Pooling") / "config.json", _Pooling)
    if pooling is None:
        return Embedding(output=output, pooling="mean", normalize="Normalize" in paths)
    mode: Literal["mean", "cls"]
    match pooling.modes:
        case ("mean",):
            mode = "mean"
        case ("cls",):
            mode = "cls"
        case modes:
            raise _unsupported(f"the pooling is {' and '.join(modes) or 'none'}: a bundle pools by mean or cls")
    if not pooling.include_prompt and prompt(folder):
        raise _unsupported("the pooling leaves the prompt's tokens out")
    return Embedding(output=output, pooling=mode, normalize="Normalize" in paths)


def prompt(folder: Path) -> str:
    """Read the text that sentence-transformers puts before each text; empty without one.

    Raises:
        UsageError: `model-unreadable`, when the file is malformed or its default names no prompt.
    """
    found = read(folder / "config_sentence_transformers.json", _Prompts) or _Prompts()
    if found.default_prompt_name is None:
        return ""
    if found.default_prompt_name not in found.prompts:
        message = f"{folder} names a prompt {found.default_prompt_name!r} by default that it doesn't have"
        raise UsageError("model-unreadable", message, "repair or restore config_sentence_transformers.json")
    return found.prompts[found.default_prompt_name]


def cross_encoder_activation(folder: Path) -> Activation | None:
    """Read the function from a cross-encoder's one output to its score; None where the folder names none.

    Source: sentence-transformers 5.7 `CrossEncoder`, and the files of the versions before.

    Raises:
        UsageError: `model-unsupported`, when a bundle can't express the function; `model-unreadable`.
    """
    settings = read(folder / "config_sentence_transformers.json", _Prompts) or _Prompts()
    config = read(folder / "config.json", _Config) or _Config()
    before = config.sentence_transformers.activation_fn if config.sentence_transformers else None
    named = settings.activation_fn if settings.model_type == "CrossEncoder" else None
    named = named or before or config.sbert_ce_default_activation_function
    if named is None:
        return None
    if found := _ACTIVATIONS.get(named.rsplit(".", 1)[-1]):
        return found
    raise _unsupported(f"the cross-encoder's activation is {named}: a bundle has {' and '.join(_ACTIVATIONS)}")


def _unsupported(message: str) -> UsageError:
    return UsageError("model-unsupported", message, _HINT)
