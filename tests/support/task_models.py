"""A tiny real bundle for each task, made in milliseconds without torch, whose answers a person can foretell.

Texts are words looked up in tables. Pictures are judged by their strongest channel, sounds by their loudness. The
writer says each word's successor in the one text that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgeml_core import golden, processing
from edgeml_core import manifest as manifests
from edgeml_core.card import Accuracy
from edgeml_core.manifest import Manifest
from edgeml_runtime import tensors
from support import tiny_models as tiny

SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
#: What stands on the cards.
WARNING: Final = "few rows: the interval is wide"
#: What the writer knows, and goes on with.
SENTENCE: Final = (
    "water boils at a lower temperature in high mountains . what should i do ? check the valve , then the pump ."
)
WORDS: Final = f"""
    {SENTENCE}
    the cow is in field cattle graze on pasture needs new filter nurse said that quiet and it works well bad
    ventilator room 4 was serviced monday its alarm sounded twice during night shift to open anna berlin
    [MASK]
"""
IDS: Final = {word: number for number, word in enumerate(dict.fromkeys((*SPECIAL, *WORDS.split())))}
RATE_HZ: Final = 16_000
PIXELS: Final = 16
COLORS: Final = ("red", "green", "blue")
#: How pictures become tensors: the brightest channel is 6.
PICTURE: Final = processing.ImageInput(
    height=PIXELS,
    width=PIXELS,
    channels=3,
    layout="NCHW",
    resample="bilinear",
    rescale=6 / 255,
    mean=(0.0,),
    std=(1.0,),
)
#: The side of the matrices that a slow writer multiplies for each word: some ten milliseconds.
SLOW_SIDE: Final = 700


def bundle(
    path: Path, task: manifests.Task, *, name: str | None = None, version: str = "1.0", **options: Any
) -> Manifest:
    """Write the tiny bundle of a task and return its manifest.

    Args:
        options: of the task's own maker below.
    """
    if task == "tensors":
        return tiny.tiny_onnx_bundle(path, name=name or "line", version=version)
    return MAKERS[task](path, (name or NAMES[task], version, "x86-vnni"), **options)


NAMES: Final = {
    "text-classification": "mood",
    "token-classification": "names",
    "fill-mask": "gaps",
    "question-answering": "answers",
    "feature-extraction": "meaning",
    "text-generation": "writer",
    "image-classification": "colors",
    "object-detection": "finder",
    "audio-classification": "noise",
    "automatic-speech-recognition": "ears",
}


def mood(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """A text is as good or bad as its words."""
    votes = table(2, quiet=(0, 2), well=(0, 2), works=(0, 1), bad=(3, 0))
    return of_texts(
        path,
        identity,
        "text-classification",
        {"logits": ("ReduceSum", votes)},
        processing.Classes(output="logits", labels=("negative", "positive"), activation="softmax"),
    )


def names(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """Two words are names, all others none."""
    labels = table(3, anna=(0, 9, 0), berlin=(0, 0, 9)) + np.float32([4, 0, 0])
    return of_texts(
        path,
        identity,
        "token-classification",
        {"logits": ("Identity", labels)},
        processing.TokenClasses(output="logits", labels=("O", "PERSON", "PLACE")),
    )


def gaps(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """Something new is a filter, or else a pump."""
    votes = table(len(IDS))
    votes[IDS["new"], [IDS["filter"], IDS["pump"]]] = 9, 7
    post = processing.MaskFill(output="logits", mask="[MASK]")
    return of_texts(path, identity, "fill-mask", {"logits": ("ReduceSum", votes)}, post)


def answers(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """The answer is the alarm, from its article on."""
    starts, ends = table(1, its=(9,)), table(1, alarm=(9,))
    return of_texts(
        path,
        identity,
        "question-answering",
        {"starts": ("Squeeze", starts), "ends": ("Squeeze", ends)},
        processing.Span(start="starts", end="ends", max_tokens=15),
        preprocess=processing.QuestionInput(tokenizer="tokenizer.json", max_length=64),
    )


def meaning(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """A text means the mean of its words; cow and cattle, field and pasture mean nearly the same."""
    vectors = np.random.default_rng(7).normal(size=(len(IDS), 48)).astype(np.float32)
    for word, other in (("cattle", "cow"), ("pasture", "field")):
        vectors[IDS[word]] = vectors[IDS[other]] + np.float32(0.1)
    vectors[: len(SPECIAL)] *= np.float32(0.1)
    return of_texts(
        path,
        identity,
        "feature-extraction",
        {"vectors": ("Identity", vectors)},
        processing.Embedding(output="vectors", pooling="mean", normalize=True),
    )


def writer(
    path: Path, identity: tuple[str, str, str], *, slowly: bool = False, chat: processing.ChatTemplate | None = None
) -> Manifest:
    """Goes on with the sentence that it knows, over and over."""
    followers = np.zeros((len(IDS), len(IDS)), np.float32)
    said = SENTENCE.split()
    for word, following in zip(said, [*said[1:], said[0]], strict=True):
        if not followers[IDS[word]].any():
            followers[IDS[word], IDS[following]] = 9
    post = processing.Generation(output="logits", stop_ids=(IDS["[SEP]"],), past=(), present=())
    return of_texts(
        path,
        identity,
        "text-generation",
        {"logits": ("Identity", followers)},
        post,
        preprocess=processing.PromptInput(tokenizer="tokenizer.json", max_length=512, chat=chat),
        slow_side=SLOW_SIDE if slowly else 0,
    )


def colors(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """A picture is of its strongest channel's color."""
    given = np.zeros((1, 3, PIXELS, PIXELS), np.float32)
    given[:, 1] = 1
    nodes = [helper.make_node("ReduceMean", ["pixels"], ["scores"], axes=[2, 3], keepdims=0)]
    return of_floats(path, identity, ("pixels", given), nodes, (PICTURE, COLORS))


def finder(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """Each half of a picture is an object of its strongest channel's color, unless it is dark."""
    given = np.zeros((1, 3, PIXELS, PIXELS), np.float32)
    given[:, 1, :, PIXELS // 2 :] = 5
    halves = np.float32([[[0.25, 0.5, 0.5, 1], [0.75, 0.5, 0.5, 1]]])
    constants = [
        tiny.constant("row", np.int64([2])),
        tiny.constant("behind", np.int64([0, 0, 0, 0, 0, 1])),
        tiny.constant("dark", np.float32(2)),
        tiny.constant("nil", np.float32(0)),
        tiny.constant("halves", halves),
    ]
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["pooled"], kernel_shape=[PIXELS, PIXELS // 2], strides=[1, 8]),
        helper.make_node("Squeeze", ["pooled", "row"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["colors"], perm=[0, 2, 1]),
        helper.make_node("Pad", ["colors", "behind", "dark"], ["logits"]),
        helper.make_node("Mul", ["logits", "nil"], ["nothing"]),
        helper.make_node("Add", ["nothing", "halves"], ["boxes"]),
    ]
    answered = {"logits": np.float32([[[0, 0, 0, 2], [0, 5, 0, 2]]]), "boxes": halves}
    specs = tuple(manifests.TensorSpec(name=it, dtype="float32", shape=(-1, 2, 4)) for it in answered)
    model = tiny.onnx_model(
        nodes,
        constants,
        inputs=[tiny.float_value("pixels", [None, *given.shape[1:]])],
        outputs=[tiny.float_value(spec.name, [None, 2, 4]) for spec in specs],
    )
    draft = tiny.drafted(
        identity,
        task="object-detection",
        inputs=(manifests.TensorSpec(name="pixels", dtype="float32", shape=(-1, *given.shape[1:])),),
        outputs=specs,
        preprocess=PICTURE,
        postprocess=processing.Boxes(logits="logits", boxes="boxes", labels=COLORS),
    )
    return tiny.write(path, _carded(draft), {"model.onnx": model} | _golden({"pixels": given}, answered))


def noise(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """A sound is loud or quiet."""
    nodes = [
        helper.make_node("Abs", ["samples"], ["sizes"]),
        helper.make_node("ReduceMean", ["sizes"], ["size"], axes=[1], keepdims=1),
        helper.make_node("Constant", [], ["gain"], value=tiny.constant("", np.float32([[-40, 40]]))),
        helper.make_node("Constant", [], ["middle"], value=tiny.constant("", np.float32([[4, -4]]))),
        helper.make_node("Mul", ["size", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "middle"], ["scores"]),
    ]
    sound = processing.AudioInput(sampling_rate_hz=RATE_HZ, min_samples=400, max_samples=10 * RATE_HZ)
    given = np.full((1, 400), 0.5, np.float32)
    return of_floats(path, identity, ("samples", given), nodes, (sound, ("quiet", "loud")))


def ears(path: Path, identity: tuple[str, str, str]) -> Manifest:
    """A sound says how loud it is, in one word for each change; of silence it says nothing."""
    gains, offsets = np.float32([[[-100, -100, 20, 60]]]), np.float32([[[3, -9, 0, -12]]])
    constants = [
        tiny.constant("row", np.int64([1])),
        tiny.constant("gains", gains),
        tiny.constant("offsets", offsets),
    ]
    nodes = [
        helper.make_node("Abs", ["samples"], ["sizes"]),
        helper.make_node("Unsqueeze", ["sizes", "row"], ["rows"]),
        helper.make_node("AveragePool", ["rows"], ["loudness"], kernel_shape=[400], strides=[400]),
        helper.make_node("Transpose", ["loudness"], ["frames"], perm=[0, 2, 1]),
        helper.make_node("Mul", ["frames", "gains"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offsets"], ["logits"]),
    ]
    given = np.full((1, 400), 0.5, np.float32)
    answered = {"logits": 0.5 * gains + offsets}
    model = tiny.onnx_model(
        nodes,
        constants,
        inputs=[tiny.float_value("samples", [None, None])],
        outputs=[tiny.float_value("logits", [None, None, 4])],
    )
    draft = tiny.drafted(
        identity,
        task="automatic-speech-recognition",
        inputs=(manifests.TensorSpec(name="samples", dtype="float32", shape=(-1, -1)),),
        outputs=(manifests.TensorSpec(name="logits", dtype="float32", shape=(-1, -1, 4)),),
        preprocess=processing.AudioInput(sampling_rate_hz=RATE_HZ, min_samples=400, max_samples=10 * RATE_HZ),
        postprocess=processing.Transcript(
            output="logits", tokens=("<pad>", "|", "quiet", "loud"), blank="<pad>", delimiter="|"
        ),
    )
    return tiny.write(path, _carded(draft), {"model.onnx": model} | _golden({"samples": given}, answered))


MAKERS: Final[Mapping[str, Callable[..., Manifest]]] = {
    "text-classification": mood,
    "token-classification": names,
    "fill-mask": gaps,
    "question-answering": answers,
    "feature-extraction": meaning,
    "text-generation": writer,
    "image-classification": colors,
    "object-detection": finder,
    "audio-classification": noise,
    "automatic-speech-recognition": ears,
}


def table(columns: int, **rows: tuple[float, ...]) -> NDArray[np.float32]:
    """A row for each word; zeros for those not named."""
    made = np.zeros((len(IDS), columns), np.float32)
    for word, row in rows.items():
        made[IDS[word]] = row
    return made


def tokenizer(*, framed: bool, masks: bool = False) -> bytes:
    """A `tokenizer.json` of whole words; with masks its special ones are known as such."""
    made = Tokenizer(models.WordLevel(IDS, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    if framed:
        made.post_processor = processors.BertProcessing(("[SEP]", IDS["[SEP]"]), ("[CLS]", IDS["[CLS]"]))
    if masks:
        made.add_special_tokens([*SPECIAL, "[MASK]"])
    return made.to_str().encode()


def of_texts(
    path: Path,
    identity: tuple[str, str, str],
    task: manifests.Task,
    heads: Mapping[str, tuple[str, NDArray[np.float32]]],
    postprocess: processing.Postprocess,
    *,
    preprocess: processing.Preprocess | None = None,
    slow_side: int = 0,
) -> Manifest:
    """A bundle that looks words up: each output by its operation on the rows of a table."""
    preprocess = preprocess or processing.TextInput(tokenizer="tokenizer.json", max_length=64)
    ids = np.array([[IDS["[CLS]"], IDS["pump"], IDS["[SEP]"]]], np.int64)
    constants = [tiny.constant("words", np.int64([1])), tiny.constant("columns", np.int64([2]))]
    nodes: list[Any] = []
    answered = {}
    for output, (operation, rows) in heads.items():
        constants.append(tiny.constant(f"{output}_table", rows))
        found = ["input_ids"] if not slow_side else [_slowed(nodes, slow_side)]
        nodes.append(helper.make_node("Gather", [f"{output}_table", *found], [f"{output}_rows"]))
        more, attributes, same = _OPERATIONS[operation]
        nodes.append(helper.make_node(operation, [f"{output}_rows", *more], [output], **attributes))
        answered[output] = same(rows[ids])
    specs = tuple(_spec(output, array.shape) for output, array in answered.items())
    model = tiny.onnx_model(
        nodes,
        constants,
        inputs=[helper.make_tensor_value_info("input_ids", TensorProto.INT64, [None, None])],
        outputs=[tiny.float_value(spec.name, [None if n < 0 else n for n in spec.shape]) for spec in specs],
    )
    files = {
        "model.onnx": model,
        "tokenizer.json": tokenizer(framed=task != "text-generation", masks=task == "fill-mask"),
    }
    inputs = (manifests.TensorSpec(name="input_ids", dtype="int64", shape=(-1, -1)),)
    kinds = {"task": task, "preprocess": preprocess, "postprocess": postprocess, "inputs": inputs, "outputs": specs}
    return tiny.write(path, _carded(tiny.drafted(identity, **kinds)), files | _golden({"input_ids": ids}, answered))


#: What a head makes of a table's rows: an operator, its further inputs and attributes, and the same in numpy.
_OPERATIONS: Final[Mapping[str, tuple[list[str], dict[str, int], Callable[[NDArray[Any]], NDArray[Any]]]]] = {
    "Identity": ([], {}, lambda rows: rows),
    "ReduceSum": (["words"], {"keepdims": 0}, lambda rows: rows.sum(axis=1)),
    "Squeeze": (["columns"], {}, lambda rows: rows.squeeze(2)),
}


def of_floats(
    path: Path,
    identity: tuple[str, str, str],
    given: tuple[str, NDArray[np.float32]],
    nodes: list[Any],
    kinds: tuple[processing.Preprocess, tuple[str, ...]],
) -> Manifest:
    """A bundle that computes `scores` over labels from one tensor of floats."""
    (name, array), (preprocess, labels) = given, kinds
    is_picture = isinstance(preprocess, processing.ImageInput)
    shape = (-1, *array.shape[1:]) if is_picture else (-1, -1)
    scores = array.mean(axis=(2, 3)) if is_picture else np.float32([[-16, 16]])
    model = tiny.onnx_model(
        nodes,
        [],
        inputs=[tiny.float_value(name, [None if n < 0 else n for n in shape])],
        outputs=[tiny.float_value("scores", [None, len(labels)])],
    )
    draft = tiny.drafted(
        identity,
        task="image-classification" if is_picture else "audio-classification",
        inputs=(manifests.TensorSpec(name=name, dtype="float32", shape=shape),),
        outputs=(_spec("scores", scores.shape),),
        preprocess=preprocess,
        postprocess=processing.Classes(output="scores", labels=labels, activation="softmax"),
    )
    return tiny.write(path, _carded(draft), {"model.onnx": model} | _golden({name: array}, {"scores": scores}))


def _slowed(nodes: list[Any], side: int) -> str:
    """The ids, after a product of two large matrices that depend on them."""
    nodes += [
        helper.make_node("Constant", [], ["sides"], value=tiny.constant("", np.int64([side, side]))),
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["floats"], ["largest"], keepdims=1),
        helper.make_node("Expand", ["largest", "sides"], ["square"]),
        helper.make_node("MatMul", ["square", "square"], ["product"]),
        helper.make_node("ReduceMin", ["product"], ["smallest"], keepdims=0),
        helper.make_node("Constant", [], ["nil"], value=tiny.constant("", np.float32(0))),
        helper.make_node("Mul", ["smallest", "nil"], ["nothing"]),
        helper.make_node("Add", ["floats", "nothing"], ["same"]),
        helper.make_node("Cast", ["same"], ["slow_ids"], to=TensorProto.INT64),
    ]
    return "slow_ids"


def _spec(name: str, shape: tuple[int, ...]) -> manifests.TensorSpec:
    free = {2: (-1, shape[-1]), 3: (-1, -1, shape[-1])}[len(shape)] if name not in {"starts", "ends"} else (-1, -1)
    return manifests.TensorSpec(name=name, dtype="float32", shape=free)


def _golden(given: Mapping[str, NDArray[Any]], answered: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    case = golden.GoldenCase(
        inputs={name: tensors.to_data(array) for name, array in given.items()},
        outputs={name: tensors.to_data(array) for name, array in answered.items()},
    )
    return {golden.GOLDEN_NAME: golden.encode((case,))}


def _carded(draft: Manifest) -> Manifest:
    """With figures on its card."""
    size_bytes = 22_300_000
    accuracy = Accuracy(metric="accuracy", rows=300, fp32=0.92, int8=0.91, drop=0.01, ci95=(-0.01, 0.03))
    figures = {"size_bytes": size_bytes, "baseline_size_bytes": 4 * size_bytes, "accuracy": accuracy}
    return msgspec.structs.replace(draft, card=msgspec.structs.replace(draft.card, **figures, warnings=(WARNING,)))
