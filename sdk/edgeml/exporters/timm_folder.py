"""The adapter to timm: it loads a folder that `timm.models.save_for_hf` wrote, from safetensors only.

The preparation of pictures is that of `timm.data.resolve_data_config`. Fields of it that a bundle can't express are
refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from safetensors.torch import load_file

from edgeml import torchvision_operators
from edgeml.exporters.huggingface.folder import read
from edgeml.exporters.huggingface.image_processor import EDGE_MAX_PIXELS
from edgeml.exporters.huggingface.weights import SHOWN_MAX
from edgeml.exporters.source import Signature, Source, TorchModel
from edgeml.exporters.torch_session import ERROR_CHARS, Named, TorchSession, digest, first_answer, kind, specs
from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task
from edgeml_core.processing import Classes, Embedding, ImageInput, Postprocess

WEIGHTS: Final = "model.safetensors"
_INPUT: Final = "pixel_values"
_OUTPUT: Final = "output"
_RESAMPLE: Final[Mapping[str, Literal["nearest", "bilinear", "bicubic", "lanczos"]]] = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos",
}
#: Colours of a picture.
_CHANNELS: Final = 3
_SAVE: Final = "timm.models.save_for_hf(model, FOLDER, safe_serialization=True)"
_AS_FUNCTION: Final = "export it as file.py:function, which takes tensors"
_UPRIGHT: Final = "pictures are turned upright by their EXIF orientation first, which timm leaves to its caller"
_NUMBERED: Final = "config.json has no label_names: the labels are the numbers of the classes"


class _Config(msgspec.Struct, frozen=True):
    """config.json, as `timm.models.save_for_hf` writes it."""

    architecture: str
    pretrained_cfg: dict[str, Any]
    label_names: tuple[str, ...] | dict[str, str] | None = None


class _Settings(msgspec.Struct, frozen=True):
    """The preparation of pictures, as `timm.data.resolve_data_config` returns it."""

    #: Channels, height, width.
    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str


def load(path: Path, task: Task | None) -> Source:
    """Load the model in a folder.

    Raises:
        UsageError: `model-unsafe` for weights as a pickle, `model-unreadable`, `model-unsupported`, or `extra-missing`.
    """
    config = read(path / "config.json", _Config)
    if config is None:
        raise UsageError("model-unreadable", f"{path} has no config.json", f"save it: {_SAVE}")
    _check_safe(path)
    timm = _timm()
    model = _model(timm, path)
    _load_weights(model, path)
    image = _image_input(timm.data.resolve_data_config({}, model=model))
    labels = _labels(config, path, model.num_classes)
    task = _task(task, "image-classification" if labels else "feature-extraction")
    example = {_INPUT: np.zeros((1, image.channels, image.height, image.width), dtype=np.float32)}
    module = Named(model, tuple(example), outputs=(), by_keyword=False)
    original = TorchSession(module)
    with first_answer(task, example):
        answered = original.run(example)
        _check_answer(answered, labels, model, path)
    is_numbered = bool(labels) and not (config.label_names or config.pretrained_cfg.get("label_names"))
    return Source(
        name=path.resolve().name,
        task=task,
        kind=kind(model),
        sha256=digest(model, path / "config.json"),
        signature=Signature(
            inputs=specs(example), outputs=specs(answered), preprocess=image, postprocess=_postprocess(labels)
        ),
        example=example,
        original=original,
        original_name="PyTorch",
        assets={},
        model=TorchModel(module=module),
        tools={name: metadata.version(name) for name in ("torch", "timm")},
        notes=(_UPRIGHT, _NUMBERED) if is_numbered else (_UPRIGHT,),
        folder=path,
    )


def _timm() -> Any:  # noqa: ANN401 -- timm isn't followed
    torchvision_operators.declare()
    try:
        import timm  # noqa: PLC0415 -- an extra of its own
        import timm.data  # noqa: PLC0415
    except ImportError as error:
        hint = "pip install 'edgeml-deploy[export-timm]'"
        raise UsageError("extra-missing", f"timm models need {error.name}", hint) from error
    return timm


def _check_safe(path: Path) -> None:
    if (path / WEIGHTS).is_file():
        return
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
    if pickles:
        hint = f"load it with timm where you trust the file, and save it again: {_SAVE}"
        raise UsageError("model-unsafe", f"the weights are a pickle: {', '.join(pickles)}", hint)
    raise UsageError("model-unreadable", f"{path} has no {WEIGHTS}", f"save the weights, too: {_SAVE}")


def _model(timm: Any, path: Path) -> Any:  # noqa: ANN401 -- timm isn't followed
    """Build the architecture with random weights, which `_load_weights` replaces."""
    try:
        return timm.create_model(f"local-dir:{path}", pretrained=False).eval()
    except Exception as error:  # each architecture has its own
        why = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        message = f"timm can't build the model of {path}: {why}"
        raise UsageError("model-unreadable", message, f"save it again with the installed timm: {_SAVE}") from error


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load all weights as they are: timm itself would leave some random where shapes or names differ."""
    hint = f"load it with timm, check its answers, and save it again: {_SAVE}"
    try:
        found = model.load_state_dict(load_file(path / WEIGHTS), strict=False)
    except Exception as error:  # safetensors and torch let errors of many kinds pass
        why = " ".join(f"{error}".split())[:ERROR_CHARS]
        raise UsageError("model-unreadable", f"the weights in {path} don't fit the model: {why}", hint) from error
    if found.missing_keys:
        message = f"{path} has no weights for {_some(found.missing_keys)}, which would be random"
        raise UsageError("model-unreadable", message, hint)
    if found.unexpected_keys:
        message = f"{path} has weights that the model lacks: {_some(found.unexpected_keys)}"
        raise UsageError("model-unreadable", message, hint)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return f"{', '.join(names[:SHOWN_MAX])}{more}"


def _image_input(given: Mapping[str, Any]) -> ImageInput:
    """Express timm's preparation of a picture.

    Args:
        given: by `timm.data.resolve_data_config`.

    Raises:
        UsageError: `model-unsupported`, naming the field that a bundle can't express; `model-unreadable`, when a field
            is of another type.

    Source: timm 1.0.31 `transforms_imagenet_eval`; the oracle compares the tensors.
    """
    try:
        settings = decoding.convert(given, _Settings)
    except msgspec.ValidationError as error:
        message = f"pretrained_cfg in config.json is malformed: {error}"
        raise UsageError("model-unreadable", message, f"save the model again: {_SAVE}") from error
    channels, height, width = settings.input_size
    part, mode, resample = settings.crop_pct, settings.crop_mode, settings.interpolation
    _refuse_unless(channels == _CHANNELS, "input_size", settings, f"{_CHANNELS} channels are supported")
    sides = f"sides of 1 to {EDGE_MAX_PIXELS} pixels are supported"
    _refuse_unless(0 < min(height, width) <= max(height, width) <= EDGE_MAX_PIXELS, "input_size", settings, sides)
    _refuse_unless(resample in _RESAMPLE, "interpolation", settings, f"{', '.join(_RESAMPLE)} are supported")
    _refuse_unless(mode in ("center", "squash"), "crop_mode", settings, "center and squash are supported")
    _refuse_unless(0 < part <= 1, "crop_pct", settings, "more than 0 and at most 1 is supported")
    for name in ("mean", "std"):
        _refuse_unless(len(getattr(settings, name)) == channels, name, settings, f"{_CHANNELS} numbers are supported")
    _refuse_unless(min(settings.std) > 0, "std", settings, "numbers above 0 are supported")
    before = math.floor(height / part), math.floor(width / part)
    fits = "one resized size for both sides is supported with crop_mode center; squash takes any"
    _refuse_unless(mode == "squash" or before[0] == before[1], "input_size", settings, fits)
    _refuse_unless(max(before) <= EDGE_MAX_PIXELS, "crop_pct", settings, f"up to {EDGE_MAX_PIXELS} pixels are resized")
    is_centred = mode == "center"
    return ImageInput(
        height=height,
        width=width,
        channels=_CHANNELS,
        layout="NCHW",
        resample=_RESAMPLE[resample],
        rescale=1 / 255,
        mean=settings.mean,
        std=settings.std,
        resize_shortest_edge=before[0] if is_centred else 0,
        resize_to=UNSET if is_centred or before == (height, width) else before,
        corner_half_even=True if is_centred or before != (height, width) else UNSET,
    )


def _refuse_unless(is_supported: bool, name: str, settings: _Settings, limit: str) -> None:  # noqa: FBT001
    if not is_supported:
        message = f"the preparation of pictures has {name} = {getattr(settings, name)!r}; {limit}"
        raise UsageError("model-unsupported", message, f"change it in pretrained_cfg and check it; or {_AS_FUNCTION}")


def _labels(config: _Config, path: Path, classes: int) -> tuple[str, ...]:
    """Take the labels by class; the numbers of the classes where the folder has none; none for a model of vectors."""
    names = config.label_names or config.pretrained_cfg.get("label_names")
    if not names or not classes:
        return tuple(map(str, range(classes)))
    if isinstance(names, dict):
        names = [names[str(number)] for number in range(classes) if str(number) in names]
    if len(names) != classes or len(set(names)) != classes:
        message = f"{path} has {len(set(names))} different labels for {classes} classes"
        raise UsageError("model-unreadable", message, "give each class a label of its own in label_names")
    return tuple(map(str, names))


def _task(requested: Task | None, own: Task) -> Task:
    if requested in (None, own):
        return own
    way = "for vectors, save the model with num_classes=0" if own == "image-classification" else "leave --task out"
    raise UsageError("model-unsupported", f"the timm model is for {own}, not for {requested}", way)


def _check_answer(answered: Mapping[str, Any], labels: Sequence[str], model: torch.nn.Module, path: Path) -> None:
    shapes = [list(array.shape) for array in answered.values()]
    if len(shapes) != 1 or len(shapes[0]) != 2 or (labels and shapes[0][1] != len(labels)):
        expected = f"[1, {len(labels) or 'size'}]"
        raise UsageError("model-unsupported", f"the model answers {shapes}, not {expected}", _AS_FUNCTION)
    broken = [name for name, tensor in model.named_parameters() if not torch.isfinite(tensor).all()]
    if broken or not all(np.isfinite(array).all() for array in answered.values()):
        message = f"{path} has weights that are NaN or infinite: {_some(broken) or 'unknown'}"
        raise UsageError("model-unreadable", message, "take a checkpoint from before the training diverged")


def _postprocess(labels: tuple[str, ...]) -> Postprocess:
    if labels:
        return Classes(output=_OUTPUT, labels=labels, activation="softmax")
    return Embedding(output=_OUTPUT, pooling="none", normalize=False)
