"""Every task's answers are those of transformers' own pipeline on real text, photographs and sound."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import sklearn.datasets
import transformers
from PIL import Image

from edgeml import inference
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from support import breadth_models as models
from support import sounds

TEXTS = (
    "The ventilator alarm sounded twice during the night shift.",
    "Nobody came: the pump in hall two had stopped -- again!",
    "Düse 3 verstopft, 40 °C; naïve café, 北京 🙂 <b>",
    "No.",
    "Please check the filter before the next shift begins. " * 40,
)
#: fp32 in ONNX against fp32 in PyTorch.
NEAR = {"rel": 1e-3, "abs": 1e-5}


def exported(folder: Path, model: str) -> Path:
    """A tiny model's bundle in fp32, so that only what is done before and after the model can differ."""
    request = ExportRequest(
        model=model, targets=("x86-vnni",), formats=("onnx",), quantize="none", output=folder / "out"
    )
    (bundle,) = export(request)
    return bundle.path


def theirs(folder: Path, task: str) -> Any:
    """The pipeline of the same model."""
    return transformers.pipeline(task, model=str(folder / "model"), device="cpu")


def require_scores(found: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    """The same labels in the same order, equally sure."""
    assert [it["label"] for it in found["labels"]] == [it["label"] for it in expected]
    scores = [it["score"] for it in expected]
    assert [it["score"] for it in found["labels"]] == pytest.approx(scores, **NEAR)


def require_counts(found: dict[str, Any], tokenizer: Any, text: str) -> None:
    """Of a text that was cut, how many tokens it has and how many were read; of others nothing."""
    count, most = len(tokenizer(text, truncation=False)["input_ids"]), tokenizer.model_max_length
    assert found.get("truncated") == ({"tokens": count, "read": most} if count > most else None)


@pytest.mark.parametrize(
    ("kind", "labels"), [(None, 3), ("multi_label_classification", 3), ("regression", 2), (None, 1)]
)
def test_texts_are_classified_as_the_pipeline_does(kind: str | None, labels: int, tmp_path: Path):
    """Several at once, too long ones, and models whose scores are no shares of one."""
    transformers.set_seed(0)
    config = models.CONFIGS["bert"]()
    config.update({"problem_type": kind, "num_labels": labels})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    models.tokenizer(64).save_pretrained(tmp_path / "model")
    bundle = exported(tmp_path, str(tmp_path / "model"))
    classify = theirs(tmp_path, "text-classification")
    answers = inference.run(bundle, [{"text": text} for text in TEXTS])
    for text, found in zip(TEXTS, answers, strict=True):
        require_scores(found, classify(text, top_k=None, truncation=True))
        require_counts(found, classify.tokenizer, text)


def test_tokens_are_labelled_as_the_pipeline_does(tmp_path: Path):
    """Each token with its place in the text; here those outside of everything are listed, too."""
    bundle = exported(tmp_path, models.pretrained(tmp_path / "model", "roberta", "token-classification", tokens=64))
    label = theirs(tmp_path, "token-classification")
    for text in TEXTS:
        expected = label(text)
        (answer,) = inference.run(bundle, {"text": text})
        require_counts(answer, label.tokenizer, text)
        found = answer["tokens"]
        assert [(it["token"], it["start"], it["end"], it["label"]) for it in found] == [
            (it["word"], it["start"], it["end"], it["entity"]) for it in expected
        ]
        assert [it["score"] for it in found] == pytest.approx([it["score"] for it in expected], **NEAR)


@pytest.mark.parametrize(("mode", "normalize"), [("mean_tokens", False), ("cls_token", True)])
def test_embeddings_are_pooled_from_what_the_pipeline_gives(mode: str, normalize: bool, tmp_path: Path):
    """As sentence-transformers' own files say, with the special tokens and without the padding of others."""
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "1_Pooling/config.json").write_text(f'{{"word_embedding_dimension": 32, "pooling_mode_{mode}": true}}')
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] if normalize else [])]
    modules = [
        {"idx": number, "name": str(number), "type": f"sentence_transformers.models.{kind}", "path": path}
        for number, (kind, path) in enumerate(kinds)
    ]
    (model / "modules.json").write_bytes(msgspec.json.encode(modules))
    bundle = exported(tmp_path, models.pretrained(model, "bert", "feature-extraction", tokens=64))
    extract = theirs(tmp_path, "feature-extraction")
    together = inference.run(bundle, [{"text": text} for text in TEXTS])
    for text, found in zip(TEXTS, together, strict=True):
        (vectors,) = np.asarray(extract(text, tokenize_kwargs={"truncation": True}))
        expected = vectors[0] if mode == "cls_token" else vectors.mean(axis=0)
        expected = expected / np.linalg.norm(expected) if normalize else expected
        require_counts(found, extract.tokenizer, text)
        assert found["embedding"] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-4)


def photographs() -> dict[str, bytes]:
    """Two photographs as cameras and programs save them: turned, see-through, grey, with a palette, narrow."""
    china, flower = (Image.fromarray(it) for it in sklearn.datasets.load_sample_images().images)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "photograph": saved(china, "JPEG"),
        "turned": saved(flower, "JPEG", exif=turned),
        "see-through": saved(flower.convert("RGBA"), "PNG"),
        "grey": saved(china.convert("L"), "PNG"),
        "palette": saved(flower.convert("P"), "GIF"),
        "narrow": saved(china.crop((0, 0, 640, 41)), "WEBP", lossless=True),
    }


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file."""
    held = io.BytesIO()
    picture.save(held, kind, **options)
    return held.getvalue()


PROCESSORS = {
    "vit": transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
    "mobilenet-v2": transformers.MobileNetV2ImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    ),
}


@pytest.mark.parametrize("family", PROCESSORS)
def test_pictures_are_classified_as_the_pipeline_does(family: str, tmp_path: Path):
    """By each kind of processor: squeezed, or cut from the middle."""
    model = models.pretrained(tmp_path / "model", family, "image-classification")
    PROCESSORS[family].save_pretrained(model)
    bundle = exported(tmp_path, model)
    classify = theirs(tmp_path, "image-classification")
    for data in photographs().values():
        (found,) = inference.run(bundle, {"image": base64.b64encode(data).decode()})
        require_scores(found, classify(Image.open(io.BytesIO(data)), top_k=3))


def test_objects_are_found_as_the_pipeline_finds_them(tmp_path: Path):
    """In pixels of the picture as it was sent, surer than the threshold of the model or of the request."""
    bundle = exported(tmp_path, models.pretrained(tmp_path / "model", "yolos", "object-detection"))
    detect = theirs(tmp_path, "object-detection")
    counts = set()
    for data in photographs().values():
        picture = Image.open(io.BytesIO(data))
        for threshold in (None, 0.2, 0.9):
            asked = {"image": base64.b64encode(data).decode()} | ({} if threshold is None else {"threshold": threshold})
            (found,) = inference.run(bundle, asked)
            expected = detect(picture, **({} if threshold is None else {"threshold": threshold}))
            expected.sort(key=lambda it: -it["score"])
            require_boxes(found["boxes"], expected)
            counts.add(len(expected))
    assert len(counts) > 1


def require_boxes(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same objects, equally sure, in the same place; a share's last digit may cross the edge of a pixel."""
    assert [it["label"] for it in found] == [it["label"] for it in expected]
    assert [it["score"] for it in found] == pytest.approx([it["score"] for it in expected], **NEAR)
    for one, other in zip(found, expected, strict=True):
        assert one["box"] == pytest.approx(other["box"], abs=1)


@pytest.mark.parametrize("family", ["wav2vec2", "ast"])
def test_sounds_are_classified_as_the_pipeline_does(family: str, tmp_path: Path):
    """From a file or from samples, quiet or loud, short or longer than the model listens."""
    bundle = exported(tmp_path, models.pretrained(tmp_path / "model", family, "audio-classification"))
    classify = theirs(tmp_path, "audio-classification")
    for seconds, loud in ((0.3, 1.0), (0.9, 0.05), (3.0, 1.0)):
        file = sounds.wav(sounds.tone(seconds) * np.float32(loud))
        samples = np.frombuffer(file[44:], "<i2").astype(np.float32) / np.float32(32768)
        expected = classify({"raw": samples, "sampling_rate": sounds.SAMPLING_RATE_HZ})
        asked = {"samples": samples.tolist(), "sampling_rate": sounds.SAMPLING_RATE_HZ}
        for request in ({"audio": base64.b64encode(file).decode()}, asked):
            (found,) = inference.run(bundle, request)
            require_scores(found, expected)
            assert ("truncated" in found) == (family == "ast" and seconds > 0.98)
