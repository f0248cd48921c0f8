"""A model opened and asked, from the request to the answer."""

import io
import subprocess
import sys
from functools import partial

import msgspec
import numpy as np
import pytest
from PIL import Image as Pictures

from edgeml_core.errors import DeviceError, RejectedError, TransportError, UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import Classes, ImageInput, TensorInput, TensorOutput, TokenClasses
from edgeml_runtime import model as models
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Image, Question, Tensors, Text
from support import task_models
from support.tiny_models import tiny_onnx_bundle, tiny_text_bundle

ONE_PIXEL = ImageInput(
    height=1, width=1, channels=1, layout="NHWC", resample="nearest", rescale=1.0, mean=(0.0,), std=(1.0,)
)


@pytest.fixture
def mood(unpack):
    """The tiny text classifier."""
    bundle = unpack(tiny_text_bundle)
    return Model.open(bundle.folder, bundle.manifest)


@pytest.fixture
def line(unpack):
    """The tiny linear model."""
    bundle = unpack(scale=3.0)
    return Model.open(bundle.folder, bundle.manifest)


def test_a_text_gets_its_labels(mood):
    """The word decides the surest label."""
    answers = mood.predict(mood.parse([{"text": "A good film"}, {"text": "a BAD film"}]))
    assert [answer["labels"][0]["label"] for answer in answers] == ["positive", "negative"]
    assert answers[0]["labels"][0]["score"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_answers_are_json(mood, line):
    """An answer goes through a JSON encoder as it is."""
    answers = mood.predict([Text("good")]) + line.predict([Tensors({"x": np.zeros((1, 4), np.float32)})])
    assert msgspec.json.decode(msgspec.json.encode(answers)) == answers


def test_many_items_are_answered_in_order(mood, monkeypatch):
    """More items than fit one run get the answers that each gets alone."""
    monkeypatch.setattr(models, "BATCH_MAX", 3)
    small = Model(mood.session, mood.manifest, mood.prepare)
    texts = [Text("good " * (number % 5) + "bad") for number in range(10)]
    assert small.predict(texts) == [mood.predict([text])[0] for text in texts]


def test_a_model_of_one_row_runs_item_by_item(mood):
    """Where the batch dimension is fixed, each item has its own run."""
    rows = [msgspec.structs.replace(spec, shape=(1, -1)) for spec in mood.manifest.inputs]
    single = Model(mood.session, msgspec.structs.replace(mood.manifest, inputs=tuple(rows)), mood.prepare)
    texts = [Text("good film"), Text("bad"), Text("")]
    assert single.predict(texts) == mood.predict(texts)


def test_tensors_go_through(line):
    """A tensor model answers with its outputs, whatever the batch in the request."""
    answers = line.predict(line.parse({"inputs": {"x": [[1, 2, 3, 4], [0, 0, 0, 0]]}}))
    assert answers == [{"outputs": {"y": [[4.0, 7.0, 10.0, 13.0], [1.0] * 4]}}]


def test_tensors_can_have_labels(line):
    """A tensor model with labels scores one row an item, and refuses more."""
    labelled = Classes(output="y", labels=("a", "b", "c", "d"), activation="none")
    manifest = msgspec.structs.replace(line.manifest, postprocess=labelled)
    model = Model(line.session, manifest, line.prepare)
    (answer,) = model.predict(model.parse({"inputs": {"x": [[0, 2, 1, 0]]}}))
    assert [entry["label"] for entry in answer["labels"]] == ["b", "c", "a", "d"]
    with pytest.raises(UsageError, match="1 item"):
        model.predict(model.parse({"inputs": {"x": [[0, 2, 1, 0]] * 2}}))


def test_pictures_share_a_run(unpack):
    """Pictures become one batch for the model's only input."""
    bundle = unpack(scale=3.0)
    spec = TensorSpec(name="x", dtype="float32", shape=(-1, 4))
    manifest = msgspec.structs.replace(bundle.manifest, preprocess=ONE_PIXEL, inputs=(spec,))
    model = Model.open(bundle.folder, manifest)
    out = io.BytesIO()
    Pictures.new("L", (3, 3), 7).save(out, "PNG")
    prepared = model.prepare([Image(out.getvalue()), Image(out.getvalue())])
    assert prepared.tensors["x"].shape == (2, 1, 1, 1)
    assert np.all(prepared.tensors["x"] == 7)


@pytest.fixture
def answers(unpack):
    """The tiny model that finds the alarm."""
    bundle = unpack(partial(task_models.bundle, task="question-answering"))
    return Model.open(bundle.folder, bundle.manifest)


LONG = Question("what sounded twice ?", "the nurse said that . " * 60 + "its alarm sounded . " + "water boils . " * 40)


def test_what_is_asked_of_a_long_context_is_found_far_behind(answers):
    """Beside a question whose context is read at once, in their order."""
    short = Question("what sounded twice ?", "its alarm")
    first, second, third = answers.predict([short, LONG, short])
    assert (first["answer"], first["start"]) == ("its alarm", 0)
    assert (second["answer"], second["start"]) == ("its alarm", LONG.context.index("its alarm"))
    assert third == first


def test_a_long_context_is_left_when_whoever_asked_has_gone(answers):
    """Between two of its windows."""
    left = iter([False, False, True])
    with pytest.raises(TransportError) as caught:
        answers.predict([LONG], lambda: next(left))
    assert caught.value.code == "client-left"


def test_infer_checks_the_signature(line):
    """Whole tensors are checked before they reach the runtime."""
    assert line.infer({"x": np.zeros((1, 4), np.float32)})["y"].tolist() == [[1.0] * 4]
    with pytest.raises(UsageError) as caught:
        line.infer({"x": np.zeros((1, 5), np.float32)})
    assert caught.value.code == "input-invalid"


def test_tensors_that_a_model_cant_run_on_are_their_makers_fault(mood):
    """An id that is no token's; what the model's own preprocessing made is no client's fault."""
    given = {name: np.full((1, 2), 99, np.int64) for name in ("input_ids", "attention_mask")}
    with pytest.raises(UsageError, match="out of data bounds"):
        mood.infer_given(given)
    with pytest.raises(DeviceError, match="out of data bounds"):
        mood.infer(given)
    assert mood.infer_given({name: array * 0 + 4 for name, array in given.items()})["logits"].shape == (1, 2)


@pytest.mark.parametrize("items", [[], [Image(b"")], [Tensors({})], [Text("a" * 1_000_000)]])
def test_items_of_another_kind_are_refused(mood, items):
    """A text model answers bounded texts, at least one."""
    with pytest.raises(UsageError) as caught:
        mood.predict(items)
    assert caught.value.code == "input-invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"preprocess": TensorInput(), "postprocess": TokenClasses(output="logits", labels=("a", "b"))},
        {"preprocess": ONE_PIXEL},
        {
            "preprocess": msgspec.structs.replace(ONE_PIXEL, mean=(0.0, 0.0)),
            "inputs": (TensorSpec(name="x", dtype="float32", shape=(-1, 1, 1, 1)),),
        },
    ],
)
def test_parts_that_dont_fit_are_refused(mood, tmp_path, changes):
    """A manifest whose parts contradict each other is a malformed bundle."""
    with pytest.raises(RejectedError) as caught:
        Model.open(tmp_path, msgspec.structs.replace(mood.manifest, **changes))
    assert caught.value.code == "bundle-format"


def test_texts_can_have_tensors(mood):
    """A text model without labels answers each text with its own row, alone or in company."""
    manifest = msgspec.structs.replace(mood.manifest, postprocess=TensorOutput())
    model = Model(mood.session, manifest, mood.prepare)
    texts = [Text("good good"), Text("bad")]
    assert model.predict(texts) == [{"outputs": {"logits": [0.0, 2.0]}}, {"outputs": {"logits": [1.0, 0.0]}}]
    assert model.predict(texts[:1]) == model.predict(texts)[:1]


def test_an_output_that_isnt_there_is_the_senders_fault(line):
    """A manifest that lists an output that the model lacks is malformed."""
    absent = TensorSpec(name="z", dtype="float32", shape=(-1, 4))
    model = Model(line.session, msgspec.structs.replace(line.manifest, outputs=(absent,)), line.prepare)
    with pytest.raises(RejectedError, match="no output z"):
        model.infer({"x": np.zeros((1, 4), np.float32)})


def test_only_what_a_model_needs_is_loaded(tmp_path):
    """A tensor model in onnxruntime loads no tokenizer, picture or LiteRT library: small boards lack the room."""
    tiny_onnx_bundle(tmp_path / "a.edgeml")
    code = (
        "import sys, pathlib; from edgeml_runtime import engines, model, unpack; engines.installed()\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "with unpack.unpacked(pathlib.Path(sys.argv[1])) as bundle:\n"
        "    model.Model.open(bundle.folder, bundle.manifest)\n"
        "print(sorted({'onnxruntime', 'tokenizers', 'PIL', 'ai_edge_litert', 'torch', 'onnx'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.edgeml"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "['onnxruntime']\n"
