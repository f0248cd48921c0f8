"""The oracle's program: `python -m edgeml.oracle.child ADAPTER`. It answers one `Ask` after the other until stdin ends.

The library of the adapter is imported while the host still converts the model. It is the one of this Python, which may
be another than the host's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeml import torchvision_operators
from edgeml.oracle import which_library
from edgeml.oracle.protocol import Ask, LibraryAnswer, RawItem, Reply
from edgeml_core.calls import Refused
from edgeml_core.errors import EdgemlError, UsageError
from edgeml_runtime import stdio, tensors

#: Set before any library is imported: no hub, no telemetry, no advice.
ENVIRONMENT: Final = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
#: For a folder that a later version of transformers saved.
LATER_HINT: Final = (
    "let EDGEML_ORACLE_PYTHON name the Python of an environment with edgeml-deploy and transformers {}, which saved it"
)
#: Fields of config.json that only a cross-encoder has: of sentence-transformers 4, and of the versions before.
CROSS_ENCODER: Final = ("sentence_transformers", "sbert_ce_default_activation_function")
#: Characters of a library's error.
ERROR_CHARS: Final = 300

#: By adapter: the extra that installs its library, where it isn't `export`.
_EXTRAS: Final = {which_library.TIMM: "export-timm", which_library.KERAS: "export-keras"}
#: Answers one item as the library's owner would.
Answerer = Callable[[RawItem], dict[str, Any]]


def reply(asked: Ask) -> Reply:
    """Load the model and answer the items; an error of the library is a reply, too."""
    try:
        library, answer = _open(asked)
    except EdgemlError as error:
        return Reply(refused=Refused.of(error))
    return Reply(library=library, answers=tuple(_answers(answer, asked.items)))


def _open(asked: Ask) -> tuple[str, Answerer]:
    folder = Path(asked.folder)
    adapter = which_library.of(folder)
    try:
        torchvision_operators.declare()
        if adapter == which_library.TIMM:
            from edgeml.oracle import timm_model  # noqa: PLC0415 -- imports timm

            return timm_model.open_folder(folder)
        if adapter == which_library.KERAS:
            from edgeml.oracle import keras_model  # noqa: PLC0415 -- imports keras

            return keras_model.open_file(folder)
        if asked.task == "text-classification" and _is_cross_encoder(folder):
            from edgeml.oracle import sentence_encoder  # noqa: PLC0415 -- imports sentence-transformers

            return sentence_encoder.open_cross_encoder(folder)
        if asked.task == "feature-extraction" and (folder / "modules.json").exists():
            from edgeml.oracle import sentence_encoder  # noqa: PLC0415 -- as above

            return sentence_encoder.open_encoder(folder)
        from edgeml.oracle import pipelines  # noqa: PLC0415 -- imports transformers

        return pipelines.open_pipeline(folder, asked.task)
    except EdgemlError:
        raise
    except ImportError as error:
        message = f"the model's own library is missing: {error}"
        hint = f"pip install 'edgeml-deploy[{_EXTRAS.get(adapter, 'export')}]'"
        raise UsageError("extra-missing", message, hint) from error
    except Exception as error:  # each library has its own
        message = f"the model's own library can't load {folder}: {_shown(error)}"
        raise UsageError("model-unreadable", message, _load_hint(folder)) from error


def _load_hint(folder: Path) -> str:
    """Advise another environment where a later version of transformers saved the folder."""
    with contextlib.suppress(OSError, ValueError, AttributeError, metadata.PackageNotFoundError):
        saved_by = str(json.loads((folder / "config.json").read_bytes()).get("transformers_version", ""))
        own, later = (int(it.partition(".")[0]) for it in (metadata.version("transformers"), saved_by))
        if later > own:
            return LATER_HINT.format(later)
    return "make the folder load there first"


def _is_cross_encoder(folder: Path) -> bool:
    """Whether sentence-transformers saved the folder: before version 5.4 it wrote to config.json only."""
    if (folder / "modules.json").exists():
        return True
    path = folder / "config.json"  # an adapter of PEFT may have none
    return path.exists() and any(name in json.loads(path.read_bytes()) for name in CROSS_ENCODER)


def _answers(answer: Answerer, items: tuple[RawItem, ...]) -> Iterator[LibraryAnswer]:
    for item in items:
        try:
            answered = answer(item)
            inputs, outputs = (
                {name: tensors.to_data(array) for name, array in answered.pop(side, {}).items()}
                for side in ("inputs", "raw_outputs")
            )
            yield LibraryAnswer(answer=_plain(answered), inputs=inputs, outputs=outputs)
        except Exception as error:  # noqa: BLE001 -- each library has its own
            yield LibraryAnswer(error=_shown(error))


def _plain(value: Any) -> Any:  # noqa: ANN401 -- nested lists and dictionaries with numpy's numbers among them
    match value:
        case dict():
            return {key: _plain(it) for key, it in value.items()}
        case list():
            return [_plain(it) for it in value]
        case np.generic():
            return value.item()
        case _:
            return value


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:ERROR_CHARS]


if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    with contextlib.suppress(ImportError, EdgemlError):  # the first request reports it
        torchvision_operators.declare()
        importlib.import_module(sys.argv[1])
    sys.exit(stdio.converse(Ask, reply))
