"""Small real models, and the faults that people's folders and files have. A fault takes a copy and a random source."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import onnx
import safetensors.torch
import torch

from support import breadth_models as models

#: The bases: the family, the task and the builder of each.
BASES: Final[dict[str, tuple[str, str, Callable[[Path, str, str], str]]]] = {
    "text": ("bert", "text-classification", models.pretrained),
    "vectors": ("roberta", "feature-extraction", models.pretrained),
    "picture": ("vit", "image-classification", models.pretrained),
    "sound": ("wav2vec2", "audio-classification", models.pretrained),
    "writer": ("gpt2", "text-generation", models.pretrained),
    "network": ("mlp", "tensors", models.onnx_file),
    "program": ("cnn-1d", "tensors", models.program),
    "function": ("mlp", "tensors", models.function),
    "estimator": ("ridge", "tensors", models.function),
}
#: The name and shape of a row of bases that take tensors.
INPUTS: Final = {
    "network": ("input", (1, 64)),
    "program": ("input", (1, 3, 16)),
    "function": ("input", (1, 8)),
    "estimator": ("input", (1, 10)),
}
FOLDERS: Final = ("text", "vectors", "picture", "sound", "writer")
POINTER: Final = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea42\nsize 90868376\n"
#: What files hold that were saved by the wrong program.
FOREIGN: Final = (b"<!DOCTYPE html><title>404</title>", b"\x89PNG\r\n\x1a\n" + bytes(64), b"[1, 2, 3]", b"null", b"{}")
#: Values that a JSON field has by a bug or by hand.
VALUES: Final = (None, 10**15, -1, 0, "x", [], {}, 1e308, True, [[1]], {"a": {"b": 1}}, "../../etc/passwd")
QUANTIZED: Final = (
    {"quant_method": "gptq", "bits": 4, "group_size": 128},
    {"quant_method": "awq", "bits": 4},
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
)
TASKS: Final = ("text-classification", "token-classification", "question-answering", "image-classification")
#: The file that hostile code makes.
MARKER: Final = "executed"

Fault = Callable[[Path, Random], str | None]


def build(base: str, folder: Path) -> str:
    """Make a base in a new folder, and return the name that `edgeml export` is given."""
    family, task, builder = BASES[base]
    return builder(folder, family, task)


def files(folder: Path) -> list[Path]:
    """List the files with content, in an order that is the same on every machine."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return sorted(path for path in found if "__pycache__" not in path.parts)


def none(_: Path, __: Random) -> None:
    """Leave the model as it is: the campaign sees that it ships."""


def truncated(folder: Path, rng: Random) -> None:
    """Cut a file short."""
    path = rng.choice(files(folder))
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def flipped(folder: Path, rng: Random) -> None:
    """Change some bytes of a file."""
    path = rng.choice(files(folder))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def pointer(folder: Path, rng: Random) -> None:
    """Leave a git-lfs pointer."""
    rng.choice(files(folder)).write_bytes(POINTER)


def emptied(folder: Path, rng: Random) -> None:
    """Leave an empty file."""
    rng.choice(files(folder)).write_bytes(b"")


def foreign(folder: Path, rng: Random) -> None:
    """Put another program's content into a file."""
    rng.choice(files(folder)).write_bytes(rng.choice(FOREIGN))


def removed(folder: Path, rng: Random) -> None:
    """Lose a file."""
    rng.choice(files(folder)).unlink()


def not_a_file(folder: Path, rng: Random) -> None:
    """Put a folder, a loop of links, a broken link or a pipe where a file was."""
    path = rng.choice(files(folder))
    path.unlink()
    match rng.randrange(4):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path.name)
        case 2:
            path.symlink_to("absent")
        case _:
            os.mkfifo(path)


def field_changed(folder: Path, rng: Random) -> None:
    """Change, remove or add fields of a JSON file."""
    path = rng.choice([it for it in files(folder) if it.suffix == ".json" and it.name != "tokenizer.json"])
    value = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 3))):
        key = rng.choice(sorted(value) or ["added"])
        if rng.random() < 0.3:
            value.pop(key, None)
        else:
            value[key] = rng.choice(VALUES)
    path.write_text(json.dumps(value))


def config_changed(folder: Path, rng: Random) -> None:
    """Give config.json what belongs to another model."""
    changes: tuple[dict[str, object], ...] = (
        *({"quantization_config": it} for it in QUANTIZED),
        {"auto_map": {"AutoModel": "modeling.Own"}},
        {"architectures": []},
        {"architectures": ["LongT5ForConditionalGeneration"]},
        {"architectures": ["BertForTokenClassification"]},
        {"model_type": rng.choice(("llama", "t5", "vit", "wav2vec2", "no-such-type", ""))},
        {"num_hidden_layers": rng.choice((2, 10**9))},
        {"hidden_size": rng.choice((16, 10**9))},
        {"id2label": {"0": "one"}},
        {"problem_type": "regression"},
        {"rope_parameters": {"rope_theta": "x"}},
        {"torch_dtype": "float8_e4m3fn", "dtype": "int8"},
    )
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | rng.choice(changes)))


def weights_changed(folder: Path, rng: Random) -> None:
    """Change the type, names or shapes of weights."""
    path = folder / "model.safetensors"
    tensors: dict[str, Any] = safetensors.torch.load_file(path)
    name = rng.choice(sorted(tensors))
    match rng.randrange(7):
        case 0:
            tensors = {key: it.to(rng.choice((torch.float16, torch.bfloat16))) for key, it in tensors.items()}
        case 1:
            tensors = {key: it.to(torch.int8) for key, it in tensors.items()}
        case 2:
            del tensors[name]
        case 3:
            tensors[f"{name}.more"] = tensors.pop(name)
        case 4:
            tensors[name] = tensors[name].reshape(-1)[:-1].clone()
        case 5:
            tensors[name] = torch.full_like(tensors[name], rng.choice((float("nan"), float("inf"))))
        case _:
            tensors = {f"model.{key}": it for key, it in tensors.items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


class _Hostile:
    """An object that makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self._marker,)


def hostile_pickle(folder: Path, rng: Random) -> str:
    """Replace the weights by a pickle that runs code, in one of the forms that people name."""
    data = pickle.dumps(_Hostile(folder / MARKER))
    weights = folder / "model.safetensors"
    match rng.randrange(4):
        case 0:
            weights.unlink()
            (folder / "pytorch_model.bin").write_bytes(data)
        case 1:
            weights.write_bytes(data)
        case 2:
            (folder / "training_args.bin").write_bytes(data)
        case _:
            path = folder / f"model{rng.choice(('.pt', '.pth', '.pkl', '.joblib', '.onnx', '.pt2', '.bin', ''))}"
            path.write_bytes(data)
            return str(path)
    return str(folder)


def elsewhere(folder: Path, rng: Random) -> str:
    """Name another place than the model's: its parent, its neighbour, a file in it."""
    kind = rng.randrange(5)
    if kind == 0:
        inner = folder / f"checkpoint-{rng.randrange(1000)}"
        shutil.copytree(folder, inner)
        for path in folder.glob("*.*"):
            path.unlink()
        return str(folder)
    if kind == 1:
        return str(folder.with_name(folder.name + "s"))
    if kind == 2:
        return str(rng.choice(files(folder)))
    if kind == 3:
        return rng.choice(("google-bert/bert-base-cased", "gpt2", "", "/dev/null", "/proc/self/mem", "\udcff", "~"))
    return f"{folder}/../{folder.name}/./"


def adapter(folder: Path, rng: Random) -> None:
    """Leave what PEFT saves."""
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "google/gemma-2-2b"}))
    if rng.random() < 0.5:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def graph_changed(folder: Path, rng: Random) -> None:
    """Change an ONNX graph so that it is another, or none."""
    (path,) = folder.glob("*.onnx")
    model = onnx.load(path)
    graph = model.graph
    match rng.randrange(8):
        case 0:
            model.opset_import[0].version = rng.choice((1, 7, 12, 99, 0))
        case 1:
            graph.input[0].type.tensor_type.elem_type = rng.choice((onnx.TensorProto.STRING, onnx.TensorProto.DOUBLE))
        case 2:
            del graph.initializer[0]
        case 3:
            graph.node[0].op_type = "NoSuchOperator"
        case 4:
            del graph.output[:]
        case 5:
            graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-4]
        case 6:
            for tensor in graph.initializer:
                onnx.external_data_helper.set_external_data(
                    tensor, rng.choice(("lost.bin", "../lost.bin", "/etc/passwd"))
                )
        case _:
            graph.node[0].input[0] = "nowhere"
    path.write_bytes(model.SerializeToString())


#: Modules whose answers a trace, or one run, doesn't show.
_MODULES: Final = (
    "type('M', (nn.Module,), {'forward': lambda s, x: x if x.sum() > 9 else -x})()",
    "type('M', (nn.Module,), {'forward': lambda s, x: x + torch.rand(4)})()",
    "type('M', (nn.Module,), {'forward': lambda s, x: [x, [x]]})()",
    "type('M', (nn.Module,), {'forward': lambda s, x: x * int(x.sum())})()",
    "type('M', (nn.Module,), {'forward': lambda s, x: x.reshape(4)})()",
    "(torch.manual_seed(3), nn.GRU(4, 3))[1]",
)


def function_changed(folder: Path, rng: Random) -> str:
    """Give a function that fails, ends the program, or returns something else."""
    bodies = (
        "raise SystemExit(0)",
        "raise KeyError('weights')",
        "return None",
        "return 1, 2",
        "return f()",
        "import no_such_module",
        "import torch; return torch.nn.Linear(4, 2), torch.zeros(1, 5)",
        "import torch; return torch.nn.Linear(4, 2), 'x'",
        "import torch; return torch.nn.Linear(4, 2), {}",
        "import torch; return torch.nn.Linear(4, 2), ()",
        "import torch; return torch.nn.Dropout(1.0), torch.zeros(1, 0)",
        "import sklearn.linear_model as s; return s.Ridge(), [[1.0]]",
        "import sklearn.linear_model as s; return s.Ridge().fit([[1.0], [2.0]], [1, 2]), [['a']]",
        "import sklearn.linear_model as s; return s.Ridge().fit([[1.0], [2.0]], [1, 2]), []",
        "while True print",
        *(f"from torch import nn, ones; import torch; return {it}, ones(1, 4)" for it in _MODULES),
    )
    path = folder / "own.py"
    path.write_text(f"def f():\n    {rng.choice(bodies)}\n")
    return f"{path}:{rng.choice(('f', 'f', 'f', 'f', 'g'))}"


def task_changed(_: Path, rng: Random) -> str:
    """Request another task: the answer is the option."""
    return f"--task={rng.choice(TASKS)}"


_ANY: Final[tuple[Fault, ...]] = (truncated, flipped, pointer, emptied, foreign, removed, not_a_file)
_FOLDER: Final[tuple[Fault, ...]] = (
    *(field_changed, field_changed, config_changed, config_changed, weights_changed, weights_changed),
    *(hostile_pickle, elsewhere, adapter, task_changed),
)
#: The faults of each base.
FAULTS: Final[dict[str, tuple[Fault, ...]]] = {
    **dict.fromkeys(FOLDERS, (*_ANY, *_FOLDER, none)),
    "network": (*_ANY, graph_changed, graph_changed, graph_changed, task_changed, none),
    "program": (*_ANY, task_changed, none),
    "function": (function_changed, function_changed, truncated, flipped, none),
    "estimator": (function_changed, none),
}


def drawn(rng: Random) -> tuple[str, Fault]:
    """Draw a base, folders four times as often as the others, and one of its faults."""
    base = rng.choice([*FOLDERS * 4, *(it for it in BASES if it not in FOLDERS)])
    return base, rng.choice(FAULTS[base])
