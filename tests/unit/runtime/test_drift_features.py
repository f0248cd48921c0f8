"""What is observed of a run, for each task, by numbers that a person can foretell; and that it is told."""

import io

import msgspec
import numpy as np
import pytest
from PIL import Image as Pictures

from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import Embedding, Span
from edgeml_runtime import drift_features
from edgeml_runtime.drift_features import ROWS_MAX, Run, observations
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Audio, Image, Prompt, Question, Tensors, Text
from support import task_models, tiny_models


@pytest.fixture
def seen(unpack):
    """A function that asks a task's tiny model and gives what is observed, item by item."""

    def ask(make, *items, **changes):
        bundle = unpack(make)
        manifest = msgspec.structs.replace(bundle.manifest, **changes)
        model, found = Model.open(bundle.folder, manifest), []
        model.observed = lambda run: found.extend(observations(run, manifest))
        model.predict(items)
        model.close()
        return found

    return ask


def task(name):
    """The maker of a task's bundle, with a name that suits it."""
    return lambda path: task_models.bundle(path, name)


def test_observations_text_has_tokens_and_label(seen):
    """Special tokens count: the model sees them. Of two labels the score says it all."""
    found = seen(task("text-classification"), Text("it works well"), Text("bad"))
    assert [(it["tokens"], it["label"]) for it in found] == [(5, "positive"), (3, "negative")]
    assert found[0]["score"] == pytest.approx(1 / (1 + np.exp(-3)))
    assert all(it.keys() == {"tokens", "label", "score"} for it in found)


def test_observations_token_classes_have_a_mean_score(seen):
    """Over the tokens of the text."""
    (found,) = seen(task("token-classification"), Text("anna the"))
    name, other = np.exp([9, 4, 0]), np.exp([4, 0, 0])
    assert found["score"] == pytest.approx((name[0] / name.sum() + other[0] / other.sum()) / 2, abs=1e-5)
    assert found["tokens"] == 4


def test_observations_span_has_its_score(seen):
    """And the pair its tokens."""
    (found,) = seen(task("question-answering"), Question("what sounded", "its alarm sounded"))
    assert found.keys() == {"tokens", "score"}
    assert 0.9 < found["score"] <= 1


def test_observations_embedding_is_projected_on_fixed_directions(seen):
    """Texts that mean nearly the same lie nearly alike; the length counts where it isn't one."""
    cow, cattle, valve = seen(task("feature-extraction"), Text("cow"), Text("cattle"), Text("valve"))
    names = [f"direction {number}" for number in (1, 2, 3, 4)]
    assert list(cow) == [*names, "tokens"]

    def distance(one, other):
        return np.linalg.norm([one[name] - other[name] for name in names])

    assert distance(cow, cattle) < distance(cow, valve) / 2
    raw = Embedding(output="vectors", pooling="mean", normalize=False)
    (found,) = seen(task("feature-extraction"), Text("cow"), postprocess=raw)
    assert found["length"] > 0


def test_directions_are_the_same_on_every_machine():
    """They come from a hash: SHAKE256 of "edgeml drift", as openssl gives it too, 6 bytes of it for 48 numbers."""
    signs = drift_features._directions(48)[:, :8] > 0
    assert [np.packbits(row).tobytes().hex() for row in signs] == ["91", "51", "af", "3c"]
    assert np.allclose(np.linalg.norm(drift_features._directions(48), axis=1), 1)


def test_observations_image_has_brightness_and_contrast(seen):
    """As the model sees it; of three labels the margin counts, too."""
    out = io.BytesIO()
    Pictures.new("RGB", (16, 16), (255, 0, 0)).save(out, "PNG")
    (found,) = seen(task("image-classification"), Image(out.getvalue()))
    assert (found["brightness"], found["contrast"]) == pytest.approx((2.0, np.std([6.0, 0.0, 0.0])))
    red, other = np.exp(6) / (np.exp(6) + 2), 1 / (np.exp(6) + 2)
    assert (found["label"], found["score"], found["margin"]) == ("red", pytest.approx(red), pytest.approx(red - other))


def test_observations_masks_have_the_best_score(seen):
    """It says how sure the model is, whatever the number of tokens requested."""
    (found,) = seen(task("fill-mask"), Text("new [MASK]", top_k=1))
    assert found.keys() == {"tokens", "score"}
    assert found["score"] == pytest.approx(np.exp(9) / (np.exp(9) + np.exp(7) + len(task_models.IDS) - 2))


def test_observations_boxes_have_a_count(seen):
    """By the model's own threshold, whatever was asked; of several the surest is seen, of none no label."""
    pictures = []
    for shades in (((255, 0, 0), (0, 0, 0)), ((0, 200, 0), (255, 0, 0)), ((0, 0, 0), (0, 0, 0))):
        picture = Pictures.new("RGB", (16, 16), shades[0])
        picture.paste(shades[1], (8, 0, 16, 16))
        held = io.BytesIO()
        picture.save(held, "PNG")
        pictures.append(Image(held.getvalue(), 0.0))
    one, two, none = seen(task("object-detection"), *pictures)
    assert [(it["objects"], it.get("label")) for it in (one, two, none)] == [(1, "red"), (2, "red"), (0, None)]
    assert one["score"] == two["score"] == pytest.approx(np.exp(6) / (np.exp(6) + 2 + np.exp(2)))
    assert none.keys() == {"objects", "brightness", "contrast"}


def test_observations_long_context_takes_its_first_window(seen):
    """One observation for each question, full of tokens."""
    long = Question("what sounded", "its alarm sounded " * 100)
    found = seen(task("question-answering"), long, Question("what sounded", "its alarm sounded"))
    assert [it["tokens"] for it in found] == [64, 8]


def test_observations_audio_has_loudness_and_duration(seen):
    """A tenth of full scale is -20 dB; silence has a floor."""
    sounds = [Audio(np.full(8000, level, np.float32), 16_000) for level in (0.1, 0.0)]
    found = [seen(task("audio-classification"), sound)[0] for sound in sounds]
    assert [it["duration s"] for it in found] == [0.5, 0.5]
    assert [it["loudness dB"] for it in found] == pytest.approx([-20, -100], abs=1e-3)


def test_observations_tensors_are_by_row(seen):
    """Columns one by one; of a large batch the first rows."""
    rows = np.arange(4 * 100, dtype=np.float32).reshape(100, 4)
    found = seen(tiny_models.tiny_onnx_bundle, Tensors({"x": rows}))
    assert len(found) == ROWS_MAX
    assert found[1] == {
        "output y": 12.0,  # twice 4 to 7 and one
        "input x[0]": 4.0,
        "input x[1]": 5.0,
        "input x[2]": 6.0,
        "input x[3]": 7.0,
    }


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((3,), ["x"]),
        ((3, 10), [*(f"x[{column}]" for column in range(8)), "x[8:]"]),
        ((3, 2, 2), ["x mean", "x spread"]),
        ((3, 0), []),
    ],
)
def test_observations_of_tensors_are_bounded(shape, names):
    """However many columns or dimensions there are."""
    values = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    found = drift_features._features("x", values[1])
    assert [name for name, _ in found] == names


def test_observations_leave_out_what_is_not_finite(seen):
    """A histogram has no place for it."""
    (found,) = seen(tiny_models.tiny_onnx_bundle, Tensors({"x": np.float32([[np.nan, np.inf, 1, 2]])}))
    assert found == {"input x[2]": 1.0, "input x[3]": 2.0}


def test_is_observed_language_model_is_not(unpack):
    """Prompts have nothing to be compared with."""
    bundle = unpack(task("text-generation"))
    model, runs = Model.open(bundle.folder, bundle.manifest), []
    model.observed = runs.append
    model.predict([Prompt(prompt="check the", max_new_tokens=2, temperature=0.0, seed=0)])
    assert runs == []
    assert not drift_features.is_observed(bundle.manifest)


def test_observations_unknown_postprocessing_leaves_the_inputs(unpack):
    """A table without an entry is no error."""
    bundle = unpack(task("text-classification"))
    model = Model.open(bundle.folder, bundle.manifest)
    unknown = msgspec.structs.replace(bundle.manifest, postprocess=_Unknown(start="logits", end="logits", max_tokens=1))
    prepared = model.prepare([Text("bad")])
    run = Run([Text("bad")], prepared, model.infer(prepared.tensors))
    assert list(observations(run, unknown)) == [{"tokens": 3.0}]


def test_observations_tensors_without_a_batch_are_one_row(unpack):
    """Inputs and outputs whose first lengths differ."""
    bundle = unpack(tiny_models.tiny_onnx_bundle)
    manifest = msgspec.structs.replace(bundle.manifest, inputs=(TensorSpec(name="x", dtype="float32", shape=(6,)),))
    tensors = {"x": np.arange(6, dtype=np.float32)}
    prepared = drift_features.Prepared(tensors, [None])
    run = Run([Tensors(tensors)], prepared, {"y": np.ones(2, np.float32)})
    (found,) = observations(run, manifest)
    assert (found["output y"], found["input x[5]"]) == (1.0, 5.0)


class _Unknown(Span, frozen=True, kw_only=True, tag="unknown"):
    """A kind of postprocessing that has no entry."""
