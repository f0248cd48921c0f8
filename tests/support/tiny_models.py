"""Real tiny ONNX models as real bundles, made in milliseconds without torch; whole, or with one fault.

`tiny_onnx_bundle` is a linear model over tensors, `tiny_text_bundle` a text classifier with its own tokenizer.
"""

from __future__ import annotations

import io
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgeml_core import bundle, golden, processing
from edgeml_core import manifest as manifests
from edgeml_core.card import Card, Parity
from edgeml_core.manifest import Manifest
from edgeml_runtime import tensors

#: `wrong golden`: the golden outputs are not the model's. `hang`: the first run never ends. `crash`: the first run
#: kills the process (SIGFPE, on x86). `huge`: the first run asks for 2 TiB and fails.
Fault = Literal["none", "wrong golden", "hang", "crash", "huge"]

MIB: Final = 1024**2
#: Copies of its weights that a runtime has in memory while it loads a model.
LOADED_COPIES: Final = 2
OPSET: Final = 17
IR_VERSION: Final = 8
COLUMNS: Final = 4
WEIGHTS_NAME: Final = "model.onnx.data"
LABELS: Final = ("negative", "positive")
VOCABULARY: Final = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "bad": 5, "film": 6}


def tiny_onnx_bundle(
    path: Path,
    *,
    name: str = "tiny",
    version: str = "1.0",
    target: str = "x86-vnni",
    scale: float = 2.0,
    weights_bytes: int = 0,
    seed: int = 0,
    rounds: int = 0,
    fault: Fault = "none",
) -> Manifest:
    """Write a bundle of `y = x * scale + 1`, x and y float32 [-1, 4], and return its manifest.

    Args:
        path: the `.edgeml` file.
        name: the manifest's.
        version: the manifest's.
        target: the manifest's; the architecture is always this machine's.
        scale: makes models that answer differently.
        weights_bytes: length of a file of incompressible weights beside the model, for deliveries of some length.
        seed: of those weights: bundles with the same seed share their chunks.
        rounds: of a loop that changes nothing, for models that are slow on any machine: a round takes about 2 us.
        fault: what is wrong with the bundle.
    """
    files = {"model.onnx": _linear_model(scale, weights_bytes, _loop(rounds) if rounds else _FAULTS.get(fault, list)())}
    if weights_bytes:
        files[WEIGHTS_NAME] = np.random.default_rng(seed).bytes(weights_bytes)
    given = np.arange(2 * COLUMNS, dtype=np.float32).reshape(2, COLUMNS)
    answered = given * np.float32(scale) + np.float32(1 if fault != "wrong golden" else 9)
    case = golden.GoldenCase(inputs={"x": tensors.to_data(given)}, outputs={"y": tensors.to_data(answered)})
    spec = {"dtype": "float32", "shape": (-1, COLUMNS)}
    return write(
        path,
        drafted(
            (name, version, target),
            task="tensors",
            inputs=(manifests.TensorSpec(name="x", **spec),),
            outputs=(manifests.TensorSpec(name="y", **spec),),
            preprocess=processing.TensorInput(),
            postprocess=processing.TensorOutput(),
            weights_bytes=weights_bytes,
        ),
        files | {golden.GOLDEN_NAME: golden.encode((case,))},
    )


def tiny_text_bundle(path: Path, *, name: str = "mood", version: str = "1.0", target: str = "x86-vnni") -> Manifest:
    """Write a bundle of a text classifier that counts "good" and "bad", and return its manifest."""
    given = {
        "input_ids": np.array([[2, 4, 6, 3]], dtype=np.int64),
        "attention_mask": np.ones((1, 4), dtype=np.int64),
    }
    answered = np.array([[0, 1]], dtype=np.float32)
    case = golden.GoldenCase(
        inputs={key: tensors.to_data(array) for key, array in given.items()},
        outputs={"logits": tensors.to_data(answered)},
    )
    return write(
        path,
        drafted(
            (name, version, target),
            task="text-classification",
            inputs=tuple(manifests.TensorSpec(name=key, dtype="int64", shape=(-1, -1)) for key in given),
            outputs=(manifests.TensorSpec(name="logits", dtype="float32", shape=(-1, len(LABELS))),),
            preprocess=processing.TextInput(tokenizer="tokenizer.json", max_length=16),
            postprocess=processing.Classes(output="logits", labels=LABELS, activation="softmax"),
        ),
        {
            "model.onnx": _counting_model(),
            "tokenizer.json": tiny_tokenizer(),
            golden.GOLDEN_NAME: golden.encode((case,)),
        },
    )


def tiny_tokenizer() -> bytes:
    """A `tokenizer.json` that knows `VOCABULARY`, one token a word, between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str().encode()


def drafted(
    identity: tuple[str, str, str],
    *,
    task: manifests.Task,
    inputs: tuple[manifests.TensorSpec, ...],
    outputs: tuple[manifests.TensorSpec, ...],
    preprocess: processing.Preprocess,
    postprocess: processing.Postprocess,
    weights_bytes: int = 0,
) -> Manifest:
    name, version, target = identity
    return Manifest(
        format="edgeml/1",
        name=name,
        version=version,
        target=target,
        task=task,
        cpu=manifests.CpuNeeds(arch=platform.machine()),
        runtime=manifests.RuntimeNeeds(engine="onnxruntime", min_version="1.20", threads=1),
        model="model.onnx",
        files=(),
        inputs=inputs,
        outputs=outputs,
        preprocess=preprocess,
        postprocess=postprocess,
        golden=manifests.Golden(path=golden.GOLDEN_NAME, cases=1, min_cosine=0.999, max_abs=1e-3),
        needs=manifests.Needs(ram_bytes=MIB + LOADED_COPIES * weights_bytes, disk_bytes=MIB + weights_bytes),
        card=Card(
            recipe="none",
            size_bytes=0,
            baseline_size_bytes=0,
            parity=Parity(against="itself", rows=1, max_abs=0.0, cosine=1.0),
        ),
        provenance=manifests.Provenance(source_sha256="0" * 64, tools={"onnx": onnx.__version__}),
    )


def write(path: Path, draft: Manifest, files: Mapping[str, bytes]) -> Manifest:
    opened = {name: io.BytesIO(files[name]) for name in sorted(files)}
    entries = tuple(bundle.describe(name, content) for name, content in opened.items())
    manifest = msgspec.structs.replace(draft, files=entries)
    with path.open("wb") as out:
        bundle.write(out, manifest, opened)
    return manifests.decode(manifests.encode(manifest))


def _linear_model(scale: float, weights_bytes: int, more: Sequence[onnx.NodeProto]) -> bytes:
    constants = [constant("scale", np.float32(scale)), constant("one", np.float32(1))]
    nodes = [helper.make_node("Mul", ["x", "scale"], ["scaled"]), helper.make_node("Add", ["scaled", "one"], ["line"])]
    nodes += more
    last = nodes[-1].output[0]
    if weights_bytes:
        constants += [
            _external_weights(weights_bytes),
            constant("first", np.int64(0)),
            constant("nil", np.float32(0)),
        ]
        nodes += [
            helper.make_node("Gather", ["weights", "first"], ["weight"]),
            helper.make_node("Cast", ["weight"], ["weight_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["weight_float", "nil"], ["nothing"]),
            helper.make_node("Add", [last, "nothing"], ["y"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", [last], ["y"]))
    return onnx_model(
        nodes, constants, inputs=[float_value("x", [None, COLUMNS])], outputs=[float_value("y", [None, COLUMNS])]
    )


def _crash() -> list[onnx.NodeProto]:
    """-2**63 / -1 in int64: a hardware trap on x86. From x, so that it isn't folded when the model loads."""
    return [
        helper.make_node("Constant", [], ["minimum"], value=constant("", np.int64(-(2**63)))),
        helper.make_node("Constant", [], ["minus_one"], value=constant("", np.int64(-1))),
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Sub", ["whole", "whole"], ["zeros"]),
        helper.make_node("Add", ["zeros", "minimum"], ["lowest"]),
        helper.make_node("Add", ["zeros", "minus_one"], ["minus_ones"]),
        helper.make_node("Div", ["lowest", "minus_ones"], ["trapped"]),
        helper.make_node("Cast", ["trapped"], ["trapped_float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["line", "trapped_float"], ["faulty"]),
    ]


def _hang() -> list[onnx.NodeProto]:
    return _loop(2**63 - 1)


def _loop(rounds: int) -> list[onnx.NodeProto]:
    """So many times zero is added to the answer."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "zeros"], ["state_next"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            float_value("state", [None, COLUMNS]),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), float_value("state_next", [None, COLUMNS])],
    )
    return [
        helper.make_node("Constant", [], ["rounds"], value=constant("", np.int64(rounds))),
        helper.make_node("Sub", ["x", "x"], ["zeros"]),
        helper.make_node("Constant", [], ["true"], value=constant("", np.bool_(True))),
        helper.make_node("Loop", ["rounds", "true", "line"], ["faulty"], body=body),
    ]


def _huge() -> list[onnx.NodeProto]:
    """2 TiB, expanded from x, so that it isn't folded into a constant when the model loads."""
    return [
        helper.make_node("Constant", [], ["tebibyte"], value=constant("", np.array([2**36, 1, 1], dtype=np.int64))),
        helper.make_node("Expand", ["line", "tebibyte"], ["expanded"]),
        helper.make_node("ReduceMax", ["expanded"], ["faulty"], axes=[0], keepdims=0),
    ]


_FAULTS: Final = {"crash": _crash, "hang": _hang, "huge": _huge}


def _counting_model() -> bytes:
    table = np.zeros((len(VOCABULARY), len(LABELS)), dtype=np.float32)
    table[VOCABULARY["bad"], 0] = table[VOCABULARY["good"], 1] = 1.0
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["votes"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"]),
        helper.make_node("Mul", ["votes", "mask_column"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "middle"], ["logits"], keepdims=0),
    ]
    constants = [
        constant("table", table),
        constant("last", np.array([2], dtype=np.int64)),
        constant("middle", np.array([1], dtype=np.int64)),
    ]
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    return onnx_model(nodes, constants, inputs=ids, outputs=[float_value("logits", ["batch", len(LABELS)])])


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> bytes:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString()


def _external_weights(size_bytes: int) -> onnx.TensorProto:
    weights = TensorProto(name="weights", data_type=TensorProto.UINT8, dims=[size_bytes])
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_NAME), ("offset", "0"), ("length", str(size_bytes))):
        weights.external_data.add(key=key, value=value)
    return weights


def constant(name: str, value: NDArray[np.generic] | np.generic) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(value), name)


def float_value(name: str, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
