"""Models from `.onnx` files: their signature, and the files that are refused."""

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models

from edgeml.exporters import load, onnx_file, onnx_opset
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError
from edgeml_core.processing import Classes, Embedding
from edgeml_runtime.engines.ort import OrtSession


def linear(path, *, opset=17, quantized=False, labels=2):
    """Write y = x W, float32 [batch, 4] to [batch, labels]."""
    weights = numpy_helper.from_array(np.ones((4, labels), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if quantized:
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("MatMul", ["d", "w"], ["y"]),
        ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", labels])
    graph = helper.make_graph(nodes, "linear", [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def test_load_reads_the_signature_and_runs_the_original(tmp_path):
    """A named length is any length; the example is of batch 1."""
    source = onnx_file.load(linear(tmp_path / "model.onnx"), None, tmp_path)
    assert [(it.name, it.shape) for it in source.signature.inputs] == [("x", (-1, 4))]
    assert source.example["x"].shape == (1, 4)
    np.testing.assert_allclose(source.original.run({"x": np.ones((3, 4), np.float32)})["y"], np.full((3, 2), 4.0))
    source.original.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"opset": 10}, "opset 10; 11 is the oldest"), ({"quantized": True}, "quantized already")],
)
def test_load_model_that_cannot_be_quantized_is_unsupported(tmp_path, options, message):
    """Too old an opset, or a model in int8."""
    with pytest.raises(UsageError, match=message) as caught:
        onnx_file.load(linear(tmp_path / "model.onnx", **options), None, tmp_path)
    assert caught.value.code == "model-unsupported"


def of_node(path, node, y, *, kind=TensorProto.FLOAT):
    """Write a model of one node from x, of shape [batch, 4], to the output y."""
    x = helper.make_tensor_value_info("x", kind, ["batch", 4])
    graph = helper.make_graph([node], "one", [x], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


TEXTS = helper.make_tensor_value_info("y", TensorProto.STRING, ["batch", 4])
NUMBER = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
FLOATS = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
PROBABILITIES = helper.make_value_info(
    "y",
    helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    ),
)


@pytest.mark.parametrize(
    ("node", "y", "kind", "message"),
    [
        (
            helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3]),
            PROBABILITIES,
            TensorProto.FLOAT,
            "'y' is a sequence; a bundle has tensors",
        ),
        (helper.make_node("Identity", ["x"], ["y"]), TEXTS, TensorProto.STRING, "'y' is of texts"),
        (helper.make_node("RandomNormalLike", ["x"], ["y"]), FLOATS, TensorProto.FLOAT, "two answers to one input"),
    ],
    ids=["skl2onnx's default", "texts", "random"],
)
def test_load_model_whose_answers_a_bundle_cannot_have_is_unsupported(tmp_path, node, y, kind, message):
    """Dictionaries of probabilities, texts, and answers that change from run to run."""
    with pytest.raises(UsageError, match=message) as caught:
        onnx_file.load(of_node(tmp_path / "model.onnx", node, y, kind=kind), None, tmp_path)
    assert caught.value.code == "model-unsupported"


def test_load_model_of_texts(tmp_path):
    """Its made-up input is texts, which onnxruntime takes."""
    node = helper.make_node(
        "LabelEncoder",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        keys_strings=["cow", "text"],
        values_floats=[1.0, 2.0],
        default_float=0.0,
    )
    source = onnx_file.load(of_node(tmp_path / "model.onnx", node, FLOATS, kind=TensorProto.STRING), None, tmp_path)
    assert [(it.name, it.dtype, it.shape) for it in source.signature.inputs] == [("x", "string", (-1, 4))]
    assert source.original.run(source.example)["y"].tolist() == [[2.0] * 4]


def axes_model(path, *, opset):
    """Write y = ReduceSum(x + [[0, 1, 2]], axis 1) by the form of opset 11 and 12: the axis is an attribute."""
    nodes = [
        helper.make_node("Add", ["x", "w"], ["s"]),
        helper.make_node("ReduceSum", ["s"], ["y"], axes=[1], keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    weights = numpy_helper.from_array(np.arange(3, dtype=np.float32)[None], "w")
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 3])  # as files of IR 3 list their weights
    graph = helper.make_graph(nodes, "axes", [x, listed], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6), path)
    return path


@pytest.mark.parametrize("opset", [11, 12])
def test_load_older_opset_ships_a_converted_file_and_keeps_the_given_one(tmp_path, opset):
    """The converted file has the new form of the operator; the card has a note; weights are no inputs."""
    path = axes_model(tmp_path / "model.onnx", opset=opset)
    source = onnx_file.load(path, None, tmp_path)
    source.original.close()
    assert [(it.name, it.shape) for it in source.signature.inputs] == [("x", (-1, 3))]
    assert source.notes == (f"converted from opset {opset} to 13; it answers as the given file does",)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [it.version for it in onnx.load(source.model).opset_import] == [13]
    x = np.array([[1, 2, 3], [-4, 5, 0.5]], np.float32)
    expected = onnxruntime.InferenceSession(path).run(None, {"x": x})[0]
    np.testing.assert_array_equal(expected, [9, 4.5])
    np.testing.assert_array_equal(onnxruntime.InferenceSession(source.model).run(None, {"x": x})[0], expected)


def test_upgrade_that_changes_an_answer_is_unsupported(tmp_path):
    """The converter isn't trusted: here the given answers are another model's."""
    path, other = axes_model(tmp_path / "model.onnx", opset=11), tmp_path / "other.onnx"
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((1, 3), 1.01, np.float32), "w"))
    onnx.save(model, other)
    given = OrtSession(other, {}, threads=1)
    with pytest.raises(UsageError, match="output 'y' is off by more than") as caught:
        onnx_opset.upgrade(path, given, [{"x": np.ones((1, 3), np.float32)}], tmp_path / "converted.onnx")
    assert caught.value.code == "model-unsupported"
    with pytest.raises(UsageError, match="no made-up input"):
        onnx_opset.upgrade(path, given, [], tmp_path / "converted.onnx")


def test_load_makes_an_example_that_the_model_answers(tmp_path):
    """A convolution of width 16 without padding refuses shorter inputs; 1 and 8 are tried before 32."""
    weights = numpy_helper.from_array(np.ones((1, 1, 16), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, "length"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, "left"])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "wide", [x], [y], [weights])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert onnx_file.load(path, None, tmp_path).example["x"].shape == (1, 1, 32)


def test_load_file_with_external_weights_is_identified_by_them_too(tmp_path):
    """Two trainings share the graph and differ in the file beside it."""
    hashes = []
    for value in (1.0, 2.0):
        folder = tmp_path / f"{value}"
        folder.mkdir()
        model = onnx.load(linear(tmp_path / "model.onnx"))
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((4, 2), value, np.float32), "w"))
        onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        source = onnx_file.load(folder / "m.onnx", None, tmp_path)
        hashes.append(source.sha256)
        np.testing.assert_allclose(source.original.run({"x": np.ones((1, 4), np.float32)})["y"], value * 4)
    assert (tmp_path / "1.0/m.onnx").read_bytes() == (tmp_path / "2.0/m.onnx").read_bytes()
    assert hashes[0] != hashes[1]


def test_load_model_with_another_number_of_labels_is_unreadable(tmp_path):
    """By the file beside it: the operator can repair that, and gets no bundle."""
    model = linear(tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text('{"id2label": {"0": "cow", "1": "calf", "2": "bull"}}')
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 2, "width": 2}}')
    request = ExportRequest(model=str(model), targets=("rpi4",), output=tmp_path, task="image-classification")
    with pytest.raises(UsageError, match=r"2 scores, but config\.json has 3 labels") as caught:
        load.load(request, tmp_path)
    assert caught.value.code == "model-unreadable"


def beside(folder, **files):
    """Write a tokenizer and JSON files beside a model."""
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(content))


def of_tokens(path, *outputs):
    """Write a model of texts with these outputs, by name and axes: the ids as numbers."""
    x = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    nodes, made = [helper.make_node("Cast", ["input_ids"], ["flat"], to=TensorProto.FLOAT)], []
    axes = numpy_helper.from_array(np.array([2]), "axes")
    for name, count in outputs:
        nodes.append(helper.make_node(*(("Unsqueeze", ["flat", "axes"]) if count == 3 else ("Neg", ["flat"])), [name]))
        shape = ["batch", "tokens", 1][:count]
        made.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph = helper.make_graph(nodes, "tokens", [x], made, [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_load_cross_encoder_takes_the_activation_of_its_folder(tmp_path):
    """As the export of the folder does; the card says that no library judged the file."""
    model = linear(tmp_path / "model.onnx", labels=1)
    identity = {"activation_fn": "torch.nn.modules.linear.Identity"}
    beside(tmp_path, config={"id2label": {"0": "x"}, "sentence_transformers": identity})
    source = onnx_file.load(model, "text-classification", tmp_path)
    assert source.signature.postprocess == Classes(output="y", labels=("x",), activation="none")
    assert source.notes[0].startswith("text-classification: its preparation and answers were compared with no library")


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([("last_hidden_state", 3)], Embedding(output="last_hidden_state", pooling="mean", normalize=True)),
        (
            [("token_embeddings", 3), ("sentence_embedding", 2)],
            Embedding(output="sentence_embedding", pooling="cls", normalize=False),
        ),
    ],
)
def test_load_sentence_encoder_pools_as_its_folder_says(tmp_path, outputs, expected):
    """With its prompt; a file with the vector of a text has that pooled already."""
    beside(
        tmp_path,
        config={},
        modules=[{"type": f"sentence_transformers.models.{it}", "path": ""} for it in ("Transformer", "Normalize")],
        config_sentence_transformers={"prompts": {"query": "query: "}, "default_prompt_name": "query"},
    )
    source = onnx_file.load(of_tokens(tmp_path / "model.onnx", *outputs), "feature-extraction", tmp_path)
    assert source.signature.postprocess == expected
    assert source.signature.preprocess.prompt == "query: "


def test_load_vectors_of_other_axes_are_unsupported(tmp_path):
    """Neither a text's nor its tokens'."""
    beside(tmp_path, config={})
    model = of_node(tmp_path / "model.onnx", helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0), NUMBER)
    with pytest.raises(UsageError, match="'y' has 0 axes; vectors of texts have 2, of tokens 3"):
        onnx_file.load(model, "feature-extraction", tmp_path)


def test_load_file_that_is_no_model_is_unreadable(tmp_path):
    """Bytes of another kind."""
    (tmp_path / "model.onnx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match="not a valid ONNX model") as caught:
        onnx_file.load(tmp_path / "model.onnx", None, tmp_path)
    assert caught.value.code == "model-unreadable"


@pytest.mark.parametrize(
    ("model", "name", "release"),
    [("Mood Model (v2).onnx", None, "mood-model-v2"), ("model.onnx", "mood", "mood")],
)
def test_release_name_is_requested_or_derived(tmp_path, model, name, release):
    """Characters that a name can't have become dashes."""
    request = ExportRequest(model=str(linear(tmp_path / model)), targets=("rpi4",), output=tmp_path, name=name)
    assert load.release_name(request, load.load(request, tmp_path)) == release


def test_release_name_without_letters_is_a_usage_error(tmp_path):
    """The message names the option."""
    request = ExportRequest(model=str(linear(tmp_path / "模型.onnx")), targets=("rpi4",), output=tmp_path)
    with pytest.raises(UsageError, match="--name"):
        load.release_name(request, load.load(request, tmp_path))
