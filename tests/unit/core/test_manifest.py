"""Manifests: one encoding, strict decoding, every problem named."""

import msgspec
import pytest

from edgeml_core import manifest, processing
from edgeml_core.errors import RejectedError
from support.samples import a_manifest


def test_a_manifest_survives_its_encoding():
    """What is decoded is what was encoded, and encodes to the same bytes."""
    data = manifest.encode(a_manifest())
    assert manifest.decode(data) == a_manifest()
    assert manifest.encode(manifest.decode(data)) == data


def test_names_follow_from_the_manifest():
    """The stem is the bundle's file name, the engine implies the format."""
    assert a_manifest().stem == "sample-1.0-rpi4-onnx"
    assert a_manifest().size_bytes == sum(entry.size_bytes for entry in a_manifest().files)


def entry(**changes):
    """The sample's second file with `changes`."""
    return msgspec.structs.replace(a_manifest().files[1], **changes)


def outputs(**lengths):
    """Specs of outputs for any number of boxes, by the values for each."""
    return tuple(
        manifest.TensorSpec(name=name, dtype="float32", shape=(-1, -1, length)) for name, length in lengths.items()
    )


MASK = processing.MaskFill(output="logits", mask="")
SPEECH = processing.Transcript(output="logits", tokens=("a",), blank="_", delimiter="|")
DECODED = processing.DecodedTranscript(
    output="logits",
    tokenizer="absent.json",
    past=("p",),
    present=(),
    cross=("c",),
    cross_present=("d", "e"),
    start=(),
    task=(),
    languages={"en": 1},
    language="de",
    stop_ids=(1,),
    times_from=9,
    max_tokens=8,
)
REWRITTEN = processing.DecodedText(
    output="logits",
    tokenizer="absent.json",
    past=(),
    present=(),
    cross=(),
    cross_present=(),
    start=(9,),
    stop_ids=(1,),
    no_repeat=-1,
    max_tokens=8,
)
BOXES = processing.Boxes(logits="logits", boxes="boxes", labels=("cow", "cat"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "No Name"}, "not a valid name"),
        ({"version": "1-2"}, "not valid"),
        ({"target": "../x"}, "not a valid name"),
        ({"files": ()}, "0 files"),
        ({"files": (*a_manifest().files, entry(path="../etc/passwd"))}, "not allowed"),
        ({"files": (*a_manifest().files, entry(path="/etc/passwd"))}, "not allowed"),
        ({"files": (*a_manifest().files, entry(path="a//b"))}, "not allowed"),
        ({"files": (*a_manifest().files, entry(path=".hidden"))}, "not allowed"),
        ({"files": (*a_manifest().files, entry(path="manifest.json"))}, "not allowed"),
        ({"files": (*a_manifest().files, entry(path="x/" + "y" * 300))}, "not allowed"),
        ({"files": (entry(path="MODEL.onnx"), *a_manifest().files)}, "differ in case only"),
        ({"files": (*a_manifest().files, entry(path="model.onnx/x"))}, "another's folder"),
        ({"files": a_manifest().files[::-1]}, "not sorted"),
        ({"files": (*a_manifest().files, entry(path="z", size_bytes=-1))}, "chunks for -1 bytes"),
        ({"files": (*a_manifest().files, entry(path="z", chunks=()))}, "0 chunks"),
        ({"files": (*a_manifest().files, entry(path="z", sha256="A" * 64))}, "malformed digest"),
        ({"files": (*a_manifest().files, entry(path="z", size_bytes=2**20, chunks=("0" * 64,) * 16))}, "exceed"),
        ({"model": "absent.onnx"}, "not among the files"),
        ({"needs": manifest.Needs(ram_bytes=-1, disk_bytes=0)}, "ram_bytes is negative"),
        ({"golden": manifest.Golden(path="golden.msgpack", cases=0, min_cosine=0.9, max_abs=0.1)}, "golden.cases"),
        ({"outputs": ()}, "outputs are missing"),
        ({"postprocess": processing.Embedding(output="z", pooling="mean", normalize=True)}, "output 'z'"),
        ({"postprocess": processing.Span(start="z", end="z", max_tokens=5)}, "only one of QuestionInput and Span"),
        ({"preprocess": processing.PromptInput(tokenizer="absent", max_length=5)}, "which is not among the files"),
        (
            {"postprocess": processing.Generation(output="z", stop_ids=(), past=("p",), present=())},
            "past inputs with other present outputs",
        ),
        (
            {"preprocess": processing.AudioInput(sampling_rate_hz=0, min_samples=9, max_samples=8)},
            "preprocess.max_samples is negative",
        ),
        ({"preprocess": processing.TextInput(tokenizer="t.json", max_length=8)}, "'t.json'"),
        ({"postprocess": MASK}, "fills a mask, but the model takes no text"),
        ({"postprocess": MASK}, "fills a mask, but names none"),
        ({"postprocess": SPEECH}, "has a transcript, but the model takes no sound"),
        ({"postprocess": SPEECH}, "blank '_', which is none of its tokens"),
        ({"postprocess": DECODED}, "the model takes no spectrum of a sound"),
        ({"postprocess": DECODED}, "language 'de', which is none of its languages"),
        ({"postprocess": DECODED}, "without a token that begins or ends it"),
        ({"postprocess": REWRITTEN}, "has a decoded text, but the model takes no text"),
        ({"postprocess": REWRITTEN}, "no_repeat is negative"),
        ({"postprocess": REWRITTEN, "outputs": outputs(logits=9)}, "a token outside of the 9 of output 'logits'"),
        ({"postprocess": DECODED}, "past inputs with other present outputs"),
        ({"postprocess": DECODED}, "'absent.json', which is not among the files"),
        ({"postprocess": BOXES}, "postprocess has boxes, but the model takes no image"),
        ({"postprocess": BOXES}, "output 'logits', which the model doesn't have"),
        ({"postprocess": msgspec.structs.replace(BOXES, labels=())}, "no label"),
        ({"postprocess": msgspec.structs.replace(BOXES, threshold=1.5)}, "threshold 1.5 is not between"),
        ({"postprocess": BOXES, "outputs": outputs(logits=2, boxes=4)}, "'logits' must have 3 values"),
        ({"postprocess": BOXES, "outputs": outputs(logits=3, boxes=5)}, "'boxes' must have 4 values"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_problem(changes, problem, monkeypatch):
    """Each rule refuses what breaks it, by name."""
    monkeypatch.setattr(manifest, "BUNDLE_MAX_BYTES", 2**20)
    with pytest.raises(RejectedError, match=problem) as caught:
        manifest.decode(manifest.encode(a_manifest(**changes)))
    assert caught.value.code == "bundle-format"


def test_all_problems_are_named_at_once():
    """The sender can mend everything in one go."""
    with pytest.raises(RejectedError, match=r"2 problem.*name.*version"):
        manifest.decode(manifest.encode(a_manifest(name="A", version="1-2")))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, manifest.encode(a_manifest())[:-1]])
def test_garbage_is_refused(data):
    """What is no manifest is a RejectedError, never another exception."""
    with pytest.raises(RejectedError):
        manifest.decode(data)


def test_unknown_fields_and_formats_are_refused():
    """A manifest from a future format is not half understood."""
    data = manifest.encode(a_manifest())
    for changed in (data.replace(b'"format":"edgeml/1"', b'"format":"edgeml/2"'), data[:-1] + b',"more":1}'):
        with pytest.raises(RejectedError):
            manifest.decode(changed)


def test_a_manifest_over_the_bound_is_refused_unread():
    """The bound is checked before a byte is parsed."""
    with pytest.raises(RejectedError, match="longer than"):
        manifest.decode(b" " * (manifest.MANIFEST_MAX_BYTES + 1))
