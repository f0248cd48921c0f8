"""Refusals for what is named as a model and is none: each error gives the way in. The standard library alone.

`load` and the loader of folders ask here; reading the models is left to them.
"""

from __future__ import annotations

import difflib
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgeml_core.errors import UsageError

ACCEPTED: Final = (
    "name a folder of Hugging Face's or timm's, a file.onnx, .pt2, .keras or .gguf, or path/file.py:function"
)
#: An owner and a name, as a hub has them.
_HUB_ID: Final = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?"
)
#: Of 1: a name this much like a neighbour's is a misspelling.
_LIKENESS_MIN: Final = 0.8
#: Characters of a name in a message.
_NAME_SHOWN_CHARS: Final = 200
#: Entries of a folder that are looked at for a hint.
_ENTRIES_MAX: Final = 1000
#: Bytes of a JSON file that is looked at for a hint.
_JSON_MAX_BYTES: Final = 1_000_000
#: The first bytes of a git-lfs pointer, which stands for a file that wasn't downloaded.
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
#: Bytes of a pointer, at most; Git LFS' specification says less than 1024.
_POINTER_MAX_BYTES: Final = 1024

#: Bytes of the length before a safetensors file's header, and of that header; the library has the same bounds.
_LENGTH_BYTES: Final = 8
_HEADER_MAX_BYTES: Final = 100_000_000

_CODE: Final = "write a function that builds the model, loads the weights and returns (model, example inputs)"
_ESTIMATOR: Final = (
    "write a function that loads it and returns (estimator, example rows), and name path/file.py:function"
)
_KERAS: Final = "with Keras 3: keras.models.load_model(FILE).save('model.keras'); then name model.keras"
_TF2ONNX: Final = "convert it: python -m tf2onnx.convert {} --output model.onnx; then name model.onnx"
#: By suffix: what such a file is, the way in, and whether reading it could run code.
_FILES: Final[dict[str, tuple[str, str, bool]]] = {
    **dict.fromkeys(
        (".pth", ".pt", ".bin", ".ckpt", ".jit", ".torchscript"),
        ("a pickle of PyTorch or a TorchScript program", f"{_CODE}, and name path/file.py:function", True),
    ),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), ("a pickle", _ESTIMATOR, True)),
    **dict.fromkeys((".h5", ".hdf5"), ("a legacy Keras model or its weights", _KERAS, False)),
    ".tflite": ("a TFLite model", _TF2ONNX.format("--tflite FILE") + ", or the model that it was made from", False),
    ".pb": ("a TensorFlow graph", _TF2ONNX.format("--saved-model FOLDER"), False),
    ".safetensors": ("weights without a model", f"name the folder with its config.json; or {_CODE}", False),
    ".ort": ("a model of onnxruntime's own format", "name the .onnx file that it was made from", False),
    ".edgeml": ("a bundle already", "see `edgeml inspect`, `edgeml verify` and `edgeml publish`", False),
    ".py": ("a Python file", "name the function, too: path/file.py:function", False),
    **dict.fromkeys(
        (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst"),
        ("an archive", "unpack it, and name what is inside", False),
    ),
}


def absent(name: str, error: OSError | ValueError) -> UsageError:
    """Build the error for a name that can't be opened.

    Args:
        name: as it was given.
        error: the system's.
    """
    shown = name if len(name) <= _NAME_SHOWN_CHARS else f"{name[:_NAME_SHOWN_CHARS]}..."
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        reason = error.strerror if isinstance(error, OSError) else error
        return _unreadable(f"the model {shown!r} can't be opened: {reason}", "check the path")
    message = f"there is no file or folder {shown!r}"
    if found := difflib.get_close_matches(Path(name).name, _beside(Path(name)), n=1, cutoff=_LIKENESS_MIN):
        return _unreadable(message, f"did you mean {str(Path(name).with_name(found[0]))!r}?")
    if ".py:" in name:
        return _unreadable(message, "name path/file.py:function, where function is a name in Python")
    if hub := _HUB_ID.fullmatch(name):
        folder = hub[1].rpartition("/")[2]
        hint = (
            f"check the path; if it is a hub's id: edgeml reads folders, so download it with"
            f" `hf download {hub[1]} --local-dir {folder}` and name {folder}"
        )
        return _unreadable(message, hint)
    return _unreadable(message, f"check the path; models are read from the disk, not from a hub: {ACCEPTED}")


def unknown(path: Path) -> UsageError:
    """Build the error for a file or another entry that exists and is no model that edgeml reads."""
    if not path.is_file():
        return _unreadable(f"{path} is neither a file nor a folder", ACCEPTED)
    what, way, is_unsafe = _FILES.get(path.suffix.lower(), ("", "", False))
    if not what:
        return _unreadable(f"{path} is no model that edgeml can read", ACCEPTED)
    if path.suffix.lower() == ".safetensors" and (path.parent / "config.json").is_file():
        way = f"name its folder, {path.parent}"
    if is_unsafe:
        return UsageError("model-unsafe", f"{path} is {what}, which could run code when it is read", way)
    return _unreadable(f"{path} is {what}, which edgeml can't read", way)


def check_file(path: Path) -> None:
    """Check that a path is a file, neither empty nor cut short, and was downloaded.

    Raises:
        UsageError: `model-unreadable`.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise _unreadable(f"{path} is no file", "repair or restore the file")
        size_bytes = found.st_size
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER and size_bytes <= _POINTER_MAX_BYTES
    except OSError as error:
        raise _unreadable(f"{path} can't be read: {error.strerror}", "repair or restore the file") from error
    if is_pointer:
        hint = "run `git lfs pull` in its folder, or download it again"
        raise _unreadable(f"{path} is a git-lfs pointer: the file itself was not downloaded", hint)
    if size_bytes == 0:
        raise _unreadable(f"{path} is empty", "download or save it again")
    if path.suffix == ".safetensors" and (expected := _safetensors_bytes(path)) is not None and size_bytes < expected:
        message = f"{path} is cut short: it has {size_bytes} of {expected} bytes"
        raise _unreadable(message, "download or save it again")


def _safetensors_bytes(path: Path) -> int | None:
    """Find the size that a file's header announces; None where the header itself is none.

    Source: the format's description, https://huggingface.co/docs/safetensors.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = file.read(header_bytes) if header_bytes <= _HEADER_MAX_BYTES else b""
    try:
        tensors = json.loads(header)
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
        return _LENGTH_BYTES + header_bytes + int(max(ends, default=0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def check_folder(folder: Path) -> None:
    """Check that a folder holds a model of transformers or timm, not another thing or one that lies deeper.

    Raises:
        UsageError: `model-unreadable` or `model-unsupported`, with the way in.
    """
    for path in _entries(folder):
        if path.suffix in (".json", ".safetensors"):
            check_file(path)
    if (folder / "adapter_config.json").is_file():
        return
    if not (folder / "config.json").exists():
        raise _unreadable(*_without_config(folder))
    config = _json(folder / "config.json")
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict):
        method = str(quantized.get("quant_method", "with a method of its own"))
        hint = "name the folder of the model before it was quantized: edgeml quantizes it for each target"
        raise UsageError("model-unsupported", f"{folder} is quantized already: {method}", hint)


def _without_config(folder: Path) -> tuple[str, str]:
    """Describe a folder without config.json, and where the model is."""
    names = sorted(path.name for path in _entries(folder))
    message = f"{folder} has no config.json"
    if not names:
        return f"{folder} is empty", "name a Hugging Face model's folder"
    if "saved_model.pb" in names:
        return f"{folder} is a SavedModel of TensorFlow", _TF2ONNX.format(f"--saved-model {folder}")
    if "model_index.json" in names:
        return f"{folder} is a pipeline of diffusers", "export one of its models as path/file.py:function"
    return _beyond_config(folder, names, message)


def _beyond_config(folder: Path, names: list[str], message: str) -> tuple[str, str]:
    """Look for a model in a folder's files and folders."""
    if inner := _transformer(folder):
        saved = f"SentenceTransformer({str(folder)!r}).save(FOLDER)"
        hint = f"save it again with sentence-transformers: {saved}, and name FOLDER"
        return f"{message}: sentence-transformers' old layout has it in {inner}", hint
    if inside := [path for path in _deeper(folder) if (path / "config.json").is_file()]:
        return message, f"name the folder of the model, such as {max(inside, key=_number)}"
    if files := [name for name in names if name.endswith((".onnx", ".pt2", ".gguf"))]:
        return message, f"name the file, {folder / files[0]}"
    known = (_FILES[Path(name).suffix.lower()] for name in names if Path(name).suffix.lower() in _FILES)
    what, way, _ = next(known, ("", "", False))
    return (f"{message}, but {what}", way) if what else (message, "name a Hugging Face model's folder")


def _transformer(folder: Path) -> str:
    """Find the folder of the transformer in a sentence-transformers folder; empty where there is none."""
    for module in _json(folder / "modules.json", list):
        path = module.get("path") if isinstance(module, dict) else None
        if isinstance(path, str) and path and (folder / path / "config.json").is_file():
            return path
    return ""


def _deeper(folder: Path) -> Iterator[Path]:
    """List the folders that a Trainer, a hub's cache or a person puts models into."""
    yield from _entries(folder)
    yield from _entries(folder / "snapshots")


def _number(path: Path) -> tuple[int, str]:
    """Order checkpoint-1000 after checkpoint-500."""
    digits = re.search(r"\d{1,18}$", path.name)
    return (int(digits[0]) if digits and path.name.startswith("checkpoint-") else -1, path.name)


def _beside(path: Path) -> list[str]:
    return [entry.name for entry in _entries(path.parent)]


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry, _ in zip(folder.iterdir(), range(_ENTRIES_MAX), strict=False)]
    except (OSError, ValueError):
        return []


def _json(path: Path, kind: type = dict) -> Any:  # noqa: ANN401 -- as JSON has it
    """Read a JSON file for a hint; empty where it has no such value."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_JSON_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return kind()
    return value if isinstance(value, kind) else kind()


def _unreadable(message: str, hint: str) -> UsageError:
    return UsageError("model-unreadable", message, hint)
