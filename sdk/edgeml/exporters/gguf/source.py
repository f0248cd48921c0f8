"""A language model in a GGUF file, loaded by the adapter to transformers from the folder that `folder` writes."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Final

from edgeml.exporters.gguf import container, folder, tensors
from edgeml.exporters.huggingface import model
from edgeml.exporters.source import Source
from edgeml_core.manifest import Task

_NOTE: Final = (
    "the original is a GGUF file ({}), whose weights were restored to fp32; all comparisons are with those,"
    " not with the model that it was made from"
)


def load(path: Path, task: Task | None, work: Path) -> Source:
    """Load the language model in a file.

    Raises:
        UsageError: `model-unreadable`, `model-unsupported`, or `extra-missing` without the `gguf` package.
    """
    place = work / "gguf" / path.stem
    found = container.read(path)
    folder.write(found, place)
    source = model.load(place, task, work)
    tools = dict(source.tools) | {"gguf": metadata.version("gguf")}
    return replace(source, notes=(*source.notes, _NOTE.format(tensors.kinds(found))), tools=tools)
