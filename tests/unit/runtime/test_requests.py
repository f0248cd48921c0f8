"""Requests in JSON: what is accepted, and what is said about the rest."""

import base64
import io
import json

import msgspec
import numpy as np
import pytest
from PIL import Image as Pictures

from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import (
    AudioInput,
    Boxes,
    ImageInput,
    MaskFill,
    PromptInput,
    QuestionInput,
    TensorInput,
    TextInput,
)
from edgeml_runtime import requests, tensors
from edgeml_runtime.generate import options
from edgeml_runtime.inputs import preparer
from edgeml_runtime.tasks import Audio, Chat, Image, Message, Prompt, Question, Tensors, Text
from support.samples import a_manifest
from support.sounds import wav

TEXT = a_manifest(preprocess=TextInput(tokenizer="model.onnx", max_length=8))
IMAGE = a_manifest(
    preprocess=ImageInput(
        height=2, width=2, channels=1, layout="NCHW", resample="bilinear", rescale=1.0, mean=(0.0,), std=(1.0,)
    )
)
DETECTOR = msgspec.structs.replace(IMAGE, postprocess=Boxes(logits="l", boxes="b", labels=("cow",)))
MASK = msgspec.structs.replace(TEXT, postprocess=MaskFill(output="y", mask="[M]"))
QUESTION = a_manifest(preprocess=QuestionInput(tokenizer="model.onnx", max_length=8))
PROMPT = a_manifest(preprocess=PromptInput(tokenizer="model.onnx", max_length=8))
AUDIO = a_manifest(preprocess=AudioInput(sampling_rate_hz=16_000, min_samples=1, max_samples=9))
TENSORS = a_manifest(
    preprocess=TensorInput(),
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(-1, 2)),
        TensorSpec(name="n", dtype="int64", shape=(1,)),
        TensorSpec(name="on", dtype="bool", shape=(1,)),
        TensorSpec(name="b", dtype="uint8", shape=(1,)),
    ),
)


ROWS = a_manifest(
    preprocess=TensorInput(missing=True),
    inputs=(
        TensorSpec(name="age", dtype="float32", shape=(-1, 1)),
        TensorSpec(name="city", dtype="string", shape=(-1, 1)),
    ),
)


def test_parse_row_has_a_value_for_each_column():
    """A value alone is the one row of its column, as nested lists have it."""
    alone, nested = requests.parse(
        [{"inputs": {"age": 41, "city": "Köln"}}, {"inputs": {"age": [[41]], "city": [["Köln"]]}}], ROWS
    )
    assert alone.inputs["age"].tolist() == nested.inputs["age"].tolist() == [[41.0]]
    assert alone.inputs["city"].tolist() == nested.inputs["city"].tolist() == [["Köln"]]


def test_parse_null_is_a_missing_number_where_the_model_takes_it():
    """Elsewhere it is no number."""
    (row,) = requests.parse({"inputs": {"age": None, "city": ""}}, ROWS)
    assert np.isnan(row.inputs["age"]).all()
    with pytest.raises(UsageError):
        requests.parse({"inputs": {"x": [[None, 1]]}}, TENSORS)


@pytest.mark.parametrize("city", [None, 3, True, [["a"], ["b", "c"]], [[None]], {"a": "b"}])
def test_parse_row_with_another_value_for_a_text_is_refused(city):
    """A category is a text, and nothing becomes one silently."""
    with pytest.raises(UsageError) as caught:
        requests.parse({"inputs": {"age": 1, "city": city}}, ROWS)
    assert caught.value.code == "input-invalid"


def test_texts_of_a_row_are_bounded():
    """All of one row together."""
    (row,) = requests.parse({"inputs": {"age": 1, "city": "a" * (requests.TEXT_MAX_CHARS + 1)}}, ROWS)
    with pytest.raises(UsageError, match="100001 characters"):
        requests.check_bounds(row)


def test_missing_number_is_refused_where_the_original_differs(tmp_path):
    """A model that takes none doesn't answer with something else."""
    manifest = msgspec.structs.replace(ROWS, preprocess=TensorInput(missing=False))
    prepare = preparer(tmp_path, manifest)
    with pytest.raises(UsageError, match="'age' has a missing number"):
        prepare([Tensors({"age": np.float32([[np.nan]]), "city": np.array([["a"]], dtype=object)})])


def test_parse_one_object_is_a_list_of_one():
    """A single object and a list with it hold the same item."""
    assert requests.parse({"text": "a"}, TEXT) == requests.parse([{"text": "a"}], TEXT) == [Text("a")]


def test_parse_image_is_its_files_bytes():
    """An image travels in base64."""
    assert requests.parse({"image": base64.b64encode(b"\x00\xff").decode()}, IMAGE) == [Image(b"\x00\xff")]


def test_parse_detection_may_have_a_threshold():
    """Without one the model's own holds."""
    image = base64.b64encode(b"cow").decode()
    asked = [{"image": image}, {"image": image, "threshold": 0.3}]
    assert requests.parse(asked, DETECTOR) == [Image(b"cow"), Image(b"cow", 0.3)]


def test_parse_mask_may_have_a_number_of_tokens():
    """Without one the model's own holds."""
    assert requests.parse([{"text": "a [M]"}, {"text": "a [M]", "top_k": 3}], MASK) == [
        Text("a [M]"),
        Text("a [M]", top_k=3),
    ]


def test_parse_question_has_a_context():
    """Both are texts."""
    assert requests.parse({"question": "who?", "context": "I."}, QUESTION) == [Question("who?", "I.")]


def test_parse_prompt_alone_is_greedy():
    """The rest is optional."""
    (item,) = requests.parse({"prompt": "Once"}, PROMPT)
    assert item == Prompt(prompt="Once", max_new_tokens=32, temperature=0.0, seed=0)


def test_parse_messages_are_a_chat():
    """They go on as a prompt does."""
    said = {"role": "user", "content": "Hello"}
    (item,) = requests.parse({"messages": [said], "top_p": 0.5, "stop": ["."]}, PROMPT)
    assert item == Chat(messages=(Message(**said),), max_new_tokens=32, temperature=0.0, seed=0, top_p=0.5, stop=(".",))


def test_parse_prompt_takes_the_options_of_sampling():
    """By the names that OpenAI's clients and other servers use; JSON's keys of a bias become token ids."""
    asked = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5}
    (item,) = requests.parse({"prompt": "a", "logit_bias": {"7": -100, "8": 2.5}, "logprobs": 2, **asked}, PROMPT)
    assert {name: getattr(item, name) for name in asked} == asked
    assert (item.logit_bias, item.logprobs, item.constraint) == ({7: -100.0, 8: 2.5}, 2, None)


def test_parse_prompt_takes_the_form_of_its_answer():
    """A JSON schema, any object, a regular expression, or any text."""
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    forms = [
        {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}},
        {"type": "json_object"},
        {"type": "regex", "value": "[ab]+"},
        {"type": "text"},
    ]
    items = requests.parse([{"prompt": "a", "response_format": form} for form in forms], PROMPT)
    found = [item.constraint for item in items]
    assert [json.loads(it.text) for it in found[:2]] == [schema, {"type": "object"}]
    assert list(json.loads(found[0].text)["properties"]) == ["b", "a"]
    assert [it and it.kind for it in found] == ["json_schema", "json_schema", "regex", None]
    assert found[2].text == "[ab]+"


def test_parse_audio_is_a_file_or_numbers():
    """Numbers at another rate than the model's are resampled, as files are."""
    with_numbers, with_file = requests.parse(
        [{"samples": [0, 0.5], "sampling_rate": 16_000}, {"audio": base64.b64encode(wav(np.array([0, 0.5]))).decode()}],
        AUDIO,
    )
    assert isinstance(with_numbers, Audio)
    assert with_numbers.samples.dtype == np.float32
    assert (with_numbers.samples.tolist(), with_numbers.sampling_rate_hz) == ([0, 0.5], 16_000)
    (slower,) = requests.parse({"samples": [0.5] * 800, "sampling_rate": 8000}, AUDIO)
    assert (slower.samples.size, slower.sampling_rate_hz) == (1600, 16_000)
    np.testing.assert_allclose(slower.samples[200:-200], 0.5, atol=1e-4)
    assert isinstance(with_file, Audio)
    assert with_file.samples.tolist() == pytest.approx([0, 0.5], abs=1e-4)
    assert with_file.sampling_rate_hz == 16_000


def test_parse_tensors_take_the_models_dtypes():
    """JSON's numbers become the data types that the model's inputs name."""
    (item,) = requests.parse({"inputs": {"x": [[1, 2.5], [3, 4]], "n": [7], "on": [True]}}, TENSORS)
    assert isinstance(item, Tensors)
    assert {name: array.dtype.name for name, array in item.inputs.items()} == {
        "x": "float32",
        "n": "int64",
        "on": "bool",
    }
    assert item.inputs["x"].tolist() == [[1.0, 2.5], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("manifest", "request_"),
    [
        (TEXT, {}),
        (TEXT, {"text": 5}),
        (TEXT, {"text": "a", "extra": 1}),
        (TEXT, "a"),
        (TEXT, None),
        (TEXT, []),
        (TEXT, [{"text": "a"}] * (requests.ITEMS_MAX + 1)),
        (TEXT, {"inputs": {}}),
        (IMAGE, {"image": "*not base64*"}),
        (IMAGE, {"image": "é"}),
        (IMAGE, {"text": "a"}),
        (IMAGE, {"image": "AAAA", "threshold": 0.5}),
        (DETECTOR, {"image": "AAAA", "threshold": 1.5}),
        (DETECTOR, {"image": "AAAA", "threshold": float("nan")}),
        (MASK, {"text": "a", "top_k": 0}),
        (MASK, {"text": "a", "top_k": requests.FILLS_MAX + 1}),
        (MASK, {"text": "a", "text_pair": "b"}),
        (QUESTION, {"question": "who?"}),
        (PROMPT, {"prompt": "a", "max_new_tokens": 0}),
        (PROMPT, {"prompt": "a", "max_new_tokens": options.NEW_TOKENS_MAX + 1}),
        (PROMPT, {"prompt": "a", "temperature": -1}),
        (PROMPT, {"prompt": "a", "temperature": float("nan")}),
        (PROMPT, {"prompt": "a", "seed": -1}),
        (PROMPT, {"prompt": "a", "top_p": 2}),
        (PROMPT, {"prompt": "a", "stop": [""]}),
        (PROMPT, {"prompt": "a", "stop": ["."] * (options.STOPS_MAX + 1)}),
        (PROMPT, {"prompt": "a", "top_k": -1}),
        (PROMPT, {"prompt": "a", "min_p": 1.5}),
        (PROMPT, {"prompt": "a", "repetition_penalty": 0}),
        (PROMPT, {"prompt": "a", "repetition_penalty": options.REPETITION_MAX + 1}),
        (PROMPT, {"prompt": "a", "frequency_penalty": options.PENALTY_MAX + 1}),
        (PROMPT, {"prompt": "a", "presence_penalty": float("nan")}),
        (PROMPT, {"prompt": "a", "logit_bias": {"-1": 1}}),
        (PROMPT, {"prompt": "a", "logit_bias": {"pump": 1}}),
        (PROMPT, {"prompt": "a", "logit_bias": {"1": options.BIAS_MAX + 1}}),
        (PROMPT, {"prompt": "a", "logit_bias": dict.fromkeys(map(str, range(options.BIASED_TOKENS_MAX + 1)), 1)}),
        (PROMPT, {"prompt": "a", "logprobs": options.TOP_LOGPROBS_MAX + 1}),
        (PROMPT, {"prompt": "a", "response_format": {"type": "grammar"}}),
        (PROMPT, {"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"name": "it"}}}),
        (PROMPT, {"prompt": "a", "response_format": {"type": "regex", "value": "a" * (2**16 + 1)}}),
        (PROMPT, {"messages": []}),
        (PROMPT, {"messages": [{"role": "user"}]}),
        (PROMPT, {"messages": [{"role": "user", "content": "a"}] * (requests.MESSAGES_MAX + 1)}),
        (AUDIO, {}),
        (AUDIO, {"audio": "AAAA"}),
        (AUDIO, {"samples": [0.5]}),
        (AUDIO, {"audio": "AAAA", "sampling_rate": 16_000}),
        (AUDIO, {"samples": [[0.5]] * 2, "sampling_rate": 16_000}),
        (TENSORS, {"inputs": {"unknown": [1]}}),
        (TENSORS, {"inputs": {"x": [[1, 2], [3]]}}),
        (TENSORS, {"inputs": {"x": [["1", "2"]]}}),
        (TENSORS, {"inputs": {"x": {"a": 1}}}),
        (TENSORS, {"inputs": {"x": [None]}}),
        (TENSORS, {"inputs": {"n": [1.5]}}),
        (TENSORS, {"inputs": {"n": [2**70]}}),
        (TENSORS, {"inputs": {"n": [2**63]}}),
        (TENSORS, {"inputs": {"b": [256]}}),
        (TENSORS, {"inputs": {"b": [-1]}}),
        (TENSORS, {"inputs": {"on": [2]}}),
    ],
)
def test_parse_request_of_another_form_raises_with_the_remedy(manifest, request_):
    """Everything else is an input error that says what to send."""
    with pytest.raises(UsageError) as caught:
        requests.parse(request_, manifest)
    assert caught.value.code == "input-invalid"
    assert caught.value.hint


@pytest.mark.parametrize(
    "item", [Text("a" * (requests.TEXT_MAX_CHARS + 1)), Image(bytes(requests.IMAGE_MAX_BYTES + 1))]
)
def test_check_bounds_item_too_large_raises(item):
    """Too long a text or file is refused before any work is done on it."""
    with pytest.raises(UsageError, match="has"):
        requests.check_bounds(item)


@pytest.mark.parametrize("sample", [1e39, -3e38, float("inf"), float("nan")])
def test_check_bounds_audio_sample_out_of_range_raises(sample):
    """Nothing could be said of it but scores that are no numbers."""
    requests.check_bounds(Audio(np.float32([0, -1.5, 32767]), 16_000))
    with np.errstate(over="ignore"), pytest.raises(UsageError, match="audio sample out of range") as caught:
        requests.check_bounds(Audio(np.array([0, sample]).astype(np.float32), 16_000))
    assert caught.value.code == "input-invalid"


def test_check_inputs_names_every_problem():
    """Missing, unknown, mistyped and misshapen inputs are reported together."""
    specs = TENSORS.inputs
    given = {
        "x": np.zeros((2, 3), np.float32),
        "n": np.zeros(1, np.int32),
        "y": np.zeros(1),
        "b": np.zeros(1, np.uint8),
    }
    with pytest.raises(UsageError) as caught:
        tensors.check_inputs(specs, given)
    assert caught.value.message == (
        "there is no input 'y'; input 'x' has shape [2, 3], not [-1, 2]; input 'n' is int32, not int64; "
        "input 'on' is missing"
    )
    assert "x float32 [-1, 2]" in caught.value.hint


def test_from_nested_too_many_numbers_raises(monkeypatch):
    """A tensor in JSON has a bounded number of elements."""
    monkeypatch.setattr(tensors, "NESTED_MAX_ELEMENTS", 3)
    with pytest.raises(UsageError, match="at most 3 numbers"):
        requests.parse({"inputs": {"x": [[1, 2], [3, 4]]}}, TENSORS)


def test_parse_takes_json_from_msgspec():
    """What a decoder hands over goes in as it is."""
    assert requests.parse(msgspec.json.decode(b'[{"text":"a"},{"text":"b"}]'), TEXT) == [Text("a"), Text("b")]


def test_parse_bounds_the_pixels_of_all_pictures():
    """Each may have 32 megapixels, all of them twice that."""
    held = io.BytesIO()
    Pictures.new("1", (8192, 4096)).save(held, "PNG")
    row = {"image": base64.b64encode(held.getvalue()).decode()}
    assert len(requests.parse([row] * 2, IMAGE)) == 2
    with pytest.raises(UsageError, match="pixels together"):
        requests.parse([row] * 3, IMAGE)


def test_the_sounds_of_a_request_are_bounded_together_while_they_are_read():
    """Before the next one is decoded: compressed files are small."""
    made = []

    def sounds():
        for number in range(4):
            made.append(number)
            yield Audio(np.zeros(requests.SAMPLES_MAX, np.float32), 16_000)

    with pytest.raises(UsageError, match="has 25165824 samples in all its sounds"):
        requests.collect(sounds())
    assert made == [0, 1, 2]
