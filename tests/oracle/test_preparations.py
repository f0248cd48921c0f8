"""Each wrong preparation is caught: the original's library, asked with the raw item, gives another answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers import models as modules

from edgeml import targets
from edgeml.check import against_oracle
from edgeml.check.candidate import opened
from edgeml.exporters import fp32
from edgeml.exporters.huggingface import image_processor
from edgeml.exporters.huggingface import model as huggingface
from edgeml.exporters.source import Built, Source
from edgeml.oracle import hard_items, library
from edgeml.pipeline import pack
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.card import Oracle
from edgeml_core.errors import GateFailed, UsageError
from edgeml_core.manifest import Manifest
from oracle import architectures
from support import breadth_models as models

Change = Callable[[Manifest], Manifest]

PROMPT = "search_query: "
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}


def cropping(folder: Path) -> None:
    """A picture classifier whose processor resizes the shortest edge and crops the centre."""
    models.pretrained(folder, "vit", "image-classification")
    size, crop = {"shortest_edge": 36}, {"height": 32, "width": 32}
    mean, std = [0.48, 0.40, 0.31], [0.27, 0.22, 0.35]
    transformers.CLIPImageProcessor(size=size, crop_size=crop, image_mean=mean, image_std=std).save_pretrained(folder)


def seeing(folder: Path) -> None:
    """An encoder of pictures."""
    cropping(folder)
    transformers.set_seed(0)
    transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, image_size=32, patch_size=8)).save_pretrained(folder)


def sentences(folder: Path) -> None:
    """A sentence-transformers encoder with a prompt, saved by the installed version."""
    models.pretrained(folder / "plain", "bert", "feature-extraction")
    transformer = modules.Transformer(str(folder / "plain"))
    pooling = modules.Pooling(transformer.get_word_embedding_dimension(), "mean")
    encoder = SentenceTransformer(
        modules=[transformer, pooling, modules.Normalize()],
        prompts={"query": PROMPT},
        default_prompt_name="query",
        device="cpu",
    )
    encoder.save(str(folder))
    shutil.rmtree(folder / "plain")


def reranker(folder: Path) -> None:
    """A cross-encoder whose one output is the score, saved by the installed version of sentence-transformers."""
    config = models.CONFIGS["bert"]()
    config.num_labels = 1
    transformers.set_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "plain")
    models.tokenizer(160).save_pretrained(folder / "plain")
    CrossEncoder(str(folder / "plain"), device="cpu", activation_fn=torch.nn.Identity()).save_pretrained(str(folder))
    shutil.rmtree(folder / "plain")


def last_token(folder: Path) -> None:
    """A text classifier that finds the last token by the id of padding."""
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, initializer_range=0.2,
        vocab_size=models.VOCABULARY, max_position_embeddings=160, pad_token_id=1, id2label=models.LABELS,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    models.tokenizer(160).save_pretrained(folder)


def language_model(folder: Path) -> None:
    """A language model with rotary positions."""
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.2,
        vocab_size=models.VOCABULARY, max_position_embeddings=160, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    models.tokenizer(160).save_pretrained(folder)


def filler(folder: Path) -> None:
    """A masked language model whose tokenizer drops the spaces before punctuation."""
    config = models.CONFIGS["roberta"]()
    transformers.set_seed(0)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    models.tokenizer(160, mask_token="<mask>", clean_up_tokenization_spaces=True).save_pretrained(folder)


def faint(folder: Path) -> None:
    """A detector that sees "no object" first, and no box whose score is above a half."""
    models.pretrained(folder, "yolos", "object-detection")
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder)
    last = model.class_labels_classifier.layers[-1]
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(torch.tensor([0.3, 0.1, 0.2, 2.0]))
    model.save_pretrained(folder)


MAKERS: Mapping[str, Callable[[Path], object]] = {
    "picture": cropping,
    "photo": lambda folder: models.pretrained(folder, "resnet", "image-classification"),
    "picture's vector": seeing,
    "sentence": sentences,
    "text": lambda folder: models.pretrained(folder, "bert", "text-classification"),
    "pair": reranker,
    "last token": last_token,
    "tokens": lambda folder: models.pretrained(folder, "roberta", "token-classification"),
    "mask": filler,
    "question": lambda folder: models.pretrained(folder, "bert", "question-answering"),
    "sound": lambda folder: models.pretrained(folder, "wav2vec2", "audio-classification"),
    "speech": lambda folder: architectures.build("wav2vec2", architectures.SPEECH, folder),
    "language": language_model,
    "boxes": lambda folder: models.pretrained(folder, "yolos", "object-detection"),
    "faint boxes": faint,
}


class Judged:
    """One model's fp32 form with its manifest, and the original library's answers to the hard items."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.source: Source = huggingface.load(folder, None, work)
        signature = self.source.signature
        unread = against_oracle.unread_counter(signature.preprocess, self.source.assets)
        self.items = hard_items.hard(signature.preprocess, signature.postprocess, unread)
        (work / "fp32").mkdir()
        self.built: Built = fp32.write(self.source, "onnx", work / "fp32")
        build = pack.Build(
            model=self.built,
            source=self.source,
            profile=targets.load("x86-vnni"),
            release=pack.Release(name="judged", version="1.0"),
        )
        self.manifest = build.manifest()
        self.reply = library.of_environment().ask(folder, self.source.task, self.items)

    def check(self, manifest: Manifest) -> Oracle:
        """Compare the form, opened with a manifest, with the library's answers."""
        with opened(self.built, manifest) as model:
            return against_oracle.check(model, self.items, self.reply.answers, self.reply.library)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Judged]:
    """Make each kind of model once."""
    made: dict[str, Judged] = {}

    def judge(kind: str) -> Judged:
        if kind not in made:
            place = tmp_path_factory.mktemp("judged")
            MAKERS[kind](place / "model")
            (place / "work").mkdir()
            made[kind] = Judged(place / "model", place / "work")
        return made[kind]

    return judge


def prepared(**changes: Any) -> Change:
    return lambda it: msgspec.structs.replace(it, preprocess=msgspec.structs.replace(it.preprocess, **changes))


def read(**changes: Any) -> Change:
    return lambda it: msgspec.structs.replace(it, postprocess=msgspec.structs.replace(it.postprocess, **changes))


MUTATIONS: list[tuple[str, str, Change]] = [
    ("picture", "no crop", prepared(resize_shortest_edge=0)),
    ("picture", "larger crop", prepared(resize_shortest_edge=40)),
    ("picture", "channels in reverse", prepared(mean=(0.31, 0.40, 0.48), std=(0.35, 0.22, 0.27))),
    ("picture", "offset", prepared(mean=(1.48, 1.40, 1.31))),
    ("picture", "scale", prepared(rescale=1 / 127.5)),
    ("picture", "filter", prepared(resample="nearest")),
    ("picture", "order of labels", read(labels=("blue", "green", "red"))),
    ("picture's vector", "filter", prepared(resample="nearest")),
    ("picture's vector", "normalized", read(normalize=True)),
    ("sentence", "no prompt", prepared(prompt=msgspec.UNSET)),
    ("sentence", "another prompt", prepared(prompt="passage: ")),
    ("sentence", "pooling", read(pooling="cls")),
    ("sentence", "not normalized", read(normalize=False)),
    ("text", "scores", read(activation="sigmoid")),
    ("pair", "scores", read(activation="sigmoid")),
    ("tokens", "order of labels", read(labels=("blue", "green", "red"))),
    ("mask", "another mask", read(mask="</s>")),
    ("mask", "spaces before punctuation", read(clean_up=False)),
    ("boxes", "order of labels", read(labels=("blue", "green", "red"))),
    ("boxes", "scale", prepared(rescale=1 / 127.5)),
    ("faint boxes", "order of labels", read(labels=("blue", "green", "red"))),
    ("faint boxes", "scale", prepared(rescale=1 / 127.5)),
    ("question", "start and end", read(start="end_logits", end="start_logits")),
    ("last token", "id of padding", prepared(pad_id=5)),
    ("sound", "loudness", prepared(normalize=False)),
    ("speech", "another blank", read(blank="E")),
    ("speech", "another delimiter", read(delimiter="T")),
    ("speech", "order of tokens", read(tokens=architectures.LETTERS[::-1])),
    ("speech", "case", read(lowercase=True)),
    ("speech", "loudness", prepared(normalize=False)),
]


@pytest.mark.parametrize("kind", MAKERS)
def test_right_preparation_agrees(judged: Callable[[str], Judged], kind: str):
    """Most of the hard items that the library takes are answered alike, alone and among others."""
    found = judged(kind).check(judged(kind).manifest)
    taken = sum(it.answer is not None for it in judged(kind).reply.answers)
    assert found.items >= max(taken - 2, 2)  # one is too long, and the second text of one pair is empty
    assert found.library.startswith("sentence-transformers" if kind in ("sentence", "pair") else "transformers")


@pytest.mark.parametrize(("kind", "name", "change"), MUTATIONS, ids=[f"{kind}, {name}" for kind, name, _ in MUTATIONS])
def test_wrong_preparation_is_caught(judged: Callable[[str], Judged], kind: str, name: str, change: Change):
    """The refusal names the item and both answers."""
    with pytest.raises(GateFailed, match=r"not the original's: .+ by (sentence-)?transformers"):
        judged(kind).check(change(judged(kind).manifest))


@pytest.mark.parametrize("kind", ["text", "sentence"])
def test_lower_limit_of_the_library_is_caught(judged: Callable[[str], Judged], kind: str, tmp_path: Path):
    """The first hard text is as long as the bundle reads; all others are short, or beyond both limits."""
    one = judged(kind)
    shutil.copytree(one.source.folder, tmp_path / "model")
    for name, limit in (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length")):
        if (file := tmp_path / "model" / name).exists():
            file.write_text(json.dumps(json.loads(file.read_text()) | {limit: 140}))
    reply = library.of_environment().ask(tmp_path / "model", one.source.task, one.items)
    with (
        opened(one.built, one.manifest) as model,
        pytest.raises(GateFailed, match=r"not the original's: 'no   Two\\tspaces"),
    ):
        against_oracle.check(model, one.items, reply.answers, reply.library)


def test_vocabulary_is_multiplied_for_the_mask_alone(judged: Callable[[str], Judged]):
    """The logits are those of the whole text's at its place."""
    module = judged("mask").source.original._module.inner
    seen: list[tuple[int, ...]] = []
    ids = torch.tensor([[0, 9, 4, 8, 2], [0, 4, 7, 6, 2]])
    whole = module.inner(input_ids=ids).logits
    hook = module.inner.get_output_embeddings().register_forward_hook(lambda *them: seen.append(tuple(them[2].shape)))
    found = module(input_ids=ids)["logits"]
    hook.remove()
    assert seen == [(2, 1, models.VOCABULARY)]
    torch.testing.assert_close(found, whole[[0, 1], [2, 1]])


@pytest.mark.nightly
def test_masks_are_filled_in_fixed_lengths_too(tmp_path: Path):
    """TFLite pads with a mask; each of its lengths takes the row."""
    filler(tmp_path / "model")
    model = str(tmp_path / "model")
    request = ExportRequest(model=model, targets=("x86-vnni",), formats=("tflite",), output=tmp_path / "out")
    (exported,) = export(request)
    assert [spec.shape for spec in exported.manifest.outputs] == [(1, models.VOCABULARY)]
    assert exported.manifest.card.oracle
    assert exported.manifest.card.oracle.items >= len(hard_items.TEXTS)


def test_logits_of_another_token_than_the_mask_are_caught(judged: Callable[[str], Judged], tmp_path: Path):
    """The graph takes the row of the mask; here it takes the row of the end."""
    one = judged("mask")
    shutil.copytree(one.built.folder, tmp_path / "other")
    model = onnx.load(one.built.path)
    (mask,) = (it for it in model.graph.initializer if it.name == "edgeml_mask_id")
    mask.CopyFrom(onnx.numpy_helper.from_array(np.array(2), mask.name))
    onnx.save(model, tmp_path / "other" / one.built.model)
    built = replace(one.built, folder=tmp_path / "other")
    with (
        opened(built, one.manifest) as other,
        pytest.raises(GateFailed, match=r"not the original's: .+ by transformers"),
    ):
        against_oracle.check(other, one.items, one.reply.answers, one.reply.library)


def test_another_rope_theta_is_caught(judged: Callable[[str], Judged], tmp_path: Path):
    """The library reads the folder itself, so that a setting lost in the export shows."""
    language_model(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"rope_theta": 100.0}))
    one = judged("language")
    one_of_another = library.of_environment().ask(tmp_path / "model", "text-generation", one.items)
    with opened(one.built, one.manifest) as model, pytest.raises(GateFailed, match="original's"):
        against_oracle.check(model, one.items, one_of_another.answers, one_of_another.library)


@pytest.mark.parametrize(
    "processor",
    [
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
        transformers.DeiTImageProcessor(size={"height": 40, "width": 36}, crop_size={"height": 32, "width": 32}),
        transformers.MobileViTImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
        transformers.EfficientNetImageProcessor(
            size={"height": 32, "width": 32}, rescale_factor=1 / 127.5, rescale_offset=True, include_top=True
        ),
        transformers.LevitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        transformers.BeitImageProcessor(
            size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32}, do_center_crop=True
        ),
    ],
    ids=lambda it: type(it).__name__,
)
def test_pictures_are_prepared_as_each_processor_does(judged: Callable[[str], Judged], processor: Any, tmp_path: Path):
    """The same model behind each of them; the oracle compares the tensors, too."""
    one = judged("picture")
    shutil.copytree(one.source.folder, tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    manifest = msgspec.structs.replace(one.manifest, preprocess=image_processor.image_input(tmp_path / "model"))
    reply = library.of_environment().ask(tmp_path / "model", "image-classification", one.items)
    with opened(one.built, manifest) as model:
        against_oracle.check(model, one.items, reply.answers, reply.library)


def test_export_ships_no_model_whose_pictures_are_prepared_otherwise(tmp_path: Path):
    """Through the gate: nothing is written, and no quantization is tried."""
    models.pretrained(tmp_path / "model", "vit", "image-classification")
    # It crops before it resizes.
    transformers.PerceiverImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path / "model")
    request = ExportRequest(
        model=str(tmp_path / "model"), targets=("x86-vnni",), formats=("onnx",), output=tmp_path / "out"
    )
    with pytest.raises(GateFailed, match="the answers are not the original's: a picture"):
        export(request)
    assert not list((tmp_path / "out").glob("*.edgeml"))


def test_head_that_was_never_trained_is_refused(tmp_path: Path):
    """A model saved without the head of the task would answer at random."""
    models.pretrained(tmp_path / "model", "bert", "feature-extraction")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"architectures": ["BertForPreTraining"]}))
    with pytest.raises(UsageError, match=r"has no weights for .*classifier\.bias.* the text-classification depends"):
        huggingface.load(tmp_path / "model", "text-classification", tmp_path)


def test_task_of_another_head_is_refused(tmp_path: Path):
    """Its weights would fit by chance."""
    models.pretrained(tmp_path / "model", "bert", "token-classification")
    with pytest.raises(UsageError, match="is an architecture for token-classification, not for text-classification"):
        huggingface.load(tmp_path / "model", "text-classification", tmp_path)


def test_weights_of_a_training_that_diverged_are_refused(tmp_path: Path):
    """Its answers are NaN for each input."""
    models.pretrained(tmp_path / "model", "vit", "image-classification")
    tensors = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    tensors["classifier.weight"][:] = np.nan
    safetensors.numpy.save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"NaN or infinite: classifier\.weight") as caught:
        huggingface.load(tmp_path / "model", None, tmp_path)
    assert caught.value.code == "model-unreadable"


@pytest.mark.parametrize(
    ("architecture", "task"),
    [("BertForPreTraining", "pretraining"), ("BlipForConditionalGeneration", "writing a text from another")],
)
def test_head_that_no_task_is_for_is_named(tmp_path: Path, architecture: str, task: str):
    """With the ways that are left, before any weights are read."""
    models.pretrained(tmp_path / "model", "bert", "feature-extraction")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": [architecture]}))
    with pytest.raises(UsageError, match=rf"{architecture} is for {task}.*, which edgeml has no task for"):
        huggingface.load(tmp_path / "model", None, tmp_path)


# 19 s of CPU time; by day a recognizer is refused in TFLite by name.
@pytest.mark.nightly
def test_sound_that_would_be_padded_without_a_mask_ships_in_no_fixed_length(tmp_path: Path):
    """TFLite's lengths are fixed, and this model takes the zeros after a short sound for sound."""
    model = models.pretrained(tmp_path / "model", "wav2vec2", "audio-classification")
    request = ExportRequest(model=model, targets=("x86-vnni",), formats=("tflite",), output=tmp_path / "out")
    with pytest.raises(GateFailed, match=r"the answers are not the original's: a sound of 0\.3 s"):
        export(request)


@pytest.mark.parametrize(("kind", "task"), [("mask", "fill-mask"), ("speech", architectures.SPEECH)])
def test_folder_without_a_tokenizer_is_refused_in_one_line(judged: Callable[[str], Judged], kind, task, tmp_path):
    """With the way to save it."""
    folder = tmp_path / "model"
    shutil.copytree(judged(kind).source.folder, folder)
    for file in (*folder.glob("*token*"), *folder.glob("vocab*")):
        file.unlink()
    with pytest.raises(UsageError, match="tokenizer") as caught:
        huggingface.load(folder, task, tmp_path)
    assert caught.value.code == "model-unreadable"
    assert "\n" not in caught.value.message


def test_recognizer_with_a_language_model_is_refused(tmp_path: Path):
    """Without it the text would be another."""
    architectures.build("wav2vec2", architectures.SPEECH, tmp_path / "model")
    file = tmp_path / "model" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processor_class": "Wav2Vec2ProcessorWithLM"}))
    with pytest.raises(UsageError, match="recognizes with a language model"):
        huggingface.load(tmp_path / "model", None, tmp_path)


@pytest.mark.nightly
def test_recognizer_ships_in_no_fixed_length(tmp_path: Path):
    """The zeros behind a short sound would change its text."""
    architectures.build("wav2vec2", architectures.SPEECH, tmp_path / "model")
    model = str(tmp_path / "model")
    request = ExportRequest(model=model, targets=("x86-vnni",), formats=("tflite",), output=tmp_path / "out")
    with pytest.raises(UsageError, match="the zeros behind a short sound change the text"):
        export(request)


def test_card_names_the_library_and_the_items(tmp_path: Path):
    """With the version that answered."""
    model = models.pretrained(tmp_path / "model", "bert", "text-classification")
    request = ExportRequest(model=model, targets=("x86-vnni",), formats=("onnx",), output=tmp_path / "out")
    (exported,) = export(request)
    found = exported.manifest.card.oracle
    assert found
    assert found.library == f"transformers {transformers.__version__}"
    assert found.items >= len(hard_items.TEXTS)
