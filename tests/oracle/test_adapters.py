"""Adapters of PEFT: the merged bundle answers as PEFT does with the adapter in its base model, or it is refused."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers import models as modules

import edgeml
from edgeml import inference
from edgeml.exporters.huggingface import merged_adapter
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml_core.errors import GateFailed, UsageError
from oracle import architectures
from support import breadth_models as models

TEXTS = ("The pump in hall two has stopped.", "no", "Water boils at a lower temperature up there.")
#: Between scores in fp32.
SCORE_MAX = 1e-4
LABELS = 4
#: Fewer than the base model reads, and than the long text has.
SENTENCE_TOKENS = 32


def exported(folder: Path, output: Path, **options: Any) -> Exported:
    request = ExportRequest(
        model=str(folder), targets=("x86-vnni",), formats=("onnx",), quantize="none", output=output, **options
    )
    (found,) = export(request)
    return found


def base_of(folder: Path, family: str, task: str) -> Path:
    """A base model without a head, and its tokenizer or image processor."""
    models.pretrained(folder, family, task)
    return folder


def adapted(automatic: Any, base: Path, folder: Path, *, kind: str | None, **options: Any) -> Any:
    """An adapter with random changes, saved by PEFT; the model that it belongs to."""
    transformers.set_seed(1)
    model = automatic.from_pretrained(base, **options)
    settings = peft.LoraConfig(
        task_type=kind,
        r=4,
        target_modules="all-linear" if kind else ["query", "value"],
        modules_to_save=None if kind else ["classifier"],
        init_lora_weights=False,
    )
    found = peft.get_peft_model(model, settings).eval()
    found.save_pretrained(folder)
    return found


def classifier(base: Path, folder: Path) -> Any:
    """Four labels on an encoder."""
    return adapted(transformers.AutoModelForSequenceClassification, base, folder, kind="SEQ_CLS", num_labels=LABELS)


def test_adapter_of_a_text_classifier_answers_as_peft(tmp_path: Path):
    """The base model lies beside it under the last part of its name, and the head has other labels than the base."""
    base = base_of(tmp_path / "tiny-bert", "bert", "feature-extraction")
    lora = tmp_path / "lora"
    model = classifier(base, lora)
    settings = lora / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": "farm/tiny-bert"}))
    found = exported(lora, tmp_path / "out")
    assert (found.manifest.name, found.manifest.task) == ("lora", "text-classification")
    assert found.manifest.card.oracle
    assert found.manifest.card.oracle.library == f"PEFT {peft.__version__} and transformers {transformers.__version__}"
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    for text in TEXTS:
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(0).tolist()
        (answer,) = inference.run(found.path, {"text": text})
        scores = {it["label"]: it["score"] for it in answer["labels"]}
        assert [scores[f"LABEL_{at}"] for at in range(LABELS)] == pytest.approx(expected, abs=SCORE_MAX)


def test_adapter_in_memory_is_exported_on_the_base_model_in_memory(tmp_path: Path):
    """The base model was trained since it was loaded, and PiSSA changed its weights; the disk has neither."""
    base = base_of(tmp_path / "base", "bert", "feature-extraction")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS)
    transformers.set_seed(2)
    for layer in model.bert.encoder.layer:
        torch.nn.init.normal_(layer.output.dense.weight, std=0.5)
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], init_lora_weights="pissa")
    adapter = peft.get_peft_model(model, settings).eval()
    for name, weight in adapter.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    (bundle,) = edgeml.export(
        adapter, "x86-vnni", output=tmp_path / "out", processor=tokenizer, formats=["onnx"], quantize="none"
    )
    assert bundle.card.oracle.library.startswith("PEFT")
    for text in TEXTS:
        with torch.inference_mode():
            expected = adapter(**tokenizer(text, return_tensors="pt")).logits[0].softmax(0).tolist()
        (answer,) = bundle.run({"text": text})
        scores = {it["label"]: it["score"] for it in answer["labels"]}
        assert [scores[f"LABEL_{at}"] for at in range(LABELS)] == pytest.approx(expected, abs=SCORE_MAX)


@pytest.mark.parametrize("state", ["two adapters", "switched off", "merged", "within"])
def test_adapter_in_memory_that_its_files_would_not_have_is_refused(tmp_path: Path, state: str):
    """With the call that gives a plain model."""
    base = base_of(tmp_path / "base", "bert", "feature-extraction")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    settings = peft.LoraConfig(target_modules=["query"])
    if state == "within":
        model.add_adapter(settings)
    else:
        model = peft.get_peft_model(model, settings)
    if state == "two adapters":
        model.add_adapter("other", settings)
        model.set_adapter("other")
    elif state == "switched off":
        model.base_model.disable_adapter_layers()
    elif state == "merged":
        model.merge_adapter()
    with pytest.raises(UsageError, match="adapter") as caught:
        edgeml.export(model, "x86-vnni", output=tmp_path / "out", task="text-classification")
    assert caught.value.code == "model-unsupported"
    assert ("get_peft_model" if state == "within" else "merge_and_unload") in caught.value.hint


def test_wrongly_merged_adapter_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """PEFT, which merges nothing for the oracle, gives other answers than a base model without the changes."""
    lora = tmp_path / "lora"
    classifier(base_of(tmp_path / "base", "bert", "feature-extraction"), lora)

    def drop(model: Any, **_: object) -> Any:
        return model.unload()

    monkeypatch.setattr(peft.tuners.lora.LoraModel, "merge_and_unload", drop)
    with pytest.raises(GateFailed, match="the answers are not the original's"):
        exported(lora, tmp_path / "out")


def test_adapter_of_another_base_is_refused(tmp_path: Path):
    """Whose layers have other sizes."""
    lora = tmp_path / "lora"
    classifier(base_of(tmp_path / "base", "bert", "feature-extraction"), lora)
    shutil.rmtree(tmp_path / "base")
    config = transformers.BertConfig(hidden_size=48, num_attention_heads=2, num_hidden_layers=2, vocab_size=400)
    transformers.BertModel(config).save_pretrained(tmp_path / "base")
    with pytest.raises(UsageError, match="PEFT can't merge") as caught:
        exported(lora, tmp_path / "out")
    assert caught.value.code == "model-unreadable"


def test_adapter_without_a_trained_head_is_refused(tmp_path: Path):
    """Neither the base model nor the adapter has the classifier's weights."""
    lora, base = tmp_path / "lora", base_of(tmp_path / "base", "bert", "feature-extraction")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], init_lora_weights=False)).save_pretrained(lora)
    with pytest.raises(UsageError, match="no weights for classifier"):
        exported(lora, tmp_path / "out", task="text-classification")


def test_adapter_without_the_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The pip line, not an ImportError."""
    lora = tmp_path / "lora"
    classifier(base_of(tmp_path / "base", "bert", "feature-extraction"), lora)
    (tmp_path / "out").mkdir()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match="which is not installed") as caught:
        merged_adapter.merge(lora, transformers.AutoModelForSequenceClassification, tmp_path / "out")
    assert "export-peft" in caught.value.hint


def test_adapter_of_sentence_transformers_answers_as_its_encoder(tmp_path: Path):
    """With its modules, prompt and limit of tokens, none of which the base model's folder has.

    sentence-transformers 5.7 itself loads such a folder only where its name has a type of models in it.
    """
    base, lora = base_of(tmp_path / "base", "bert", "feature-extraction"), tmp_path / "bert-lora"
    transformer = modules.Transformer(str(base), max_seq_length=SENTENCE_TOKENS)
    parts = [transformer, modules.Pooling(transformer.get_word_embedding_dimension(), "mean"), modules.Normalize()]
    prompts = {"query": "query: "}
    encoder = SentenceTransformer(modules=parts, prompts=prompts, default_prompt_name="query", device="cpu")
    settings = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query"], init_lora_weights=False)
    encoder.add_adapter(settings)
    encoder.save(str(lora))
    found = exported(lora, tmp_path / "out")
    for text in (TEXTS[0], " ".join(TEXTS * 4)):
        (answer,) = inference.run(found.path, {"text": text})
        assert answer["embedding"] == pytest.approx(encoder.encode([text])[0].tolist(), abs=SCORE_MAX)


@pytest.mark.nightly
def test_adapter_of_a_picture_classifier_answers_as_peft(tmp_path: Path):
    """PEFT has no task type for pictures, so `--task` names it."""
    base, lora = base_of(tmp_path / "base", "vit", "image-classification"), tmp_path / "lora"
    model = adapted(transformers.AutoModelForImageClassification, base, lora, kind=None)
    with pytest.raises(UsageError, match="no task_type that is known"):
        exported(lora, tmp_path / "out")
    found = exported(lora, tmp_path / "out", task="image-classification")
    held = io.BytesIO()
    picture = Image.linear_gradient("L").resize((40, 48)).convert("RGB")
    picture.save(held, "PNG")
    pixels = transformers.AutoImageProcessor.from_pretrained(base)(picture, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**pixels).logits[0].softmax(0).tolist()
    (answer,) = inference.run(found.path, {"image": base64.b64encode(held.getvalue()).decode()})
    scores = {it["label"]: it["score"] for it in answer["labels"]}
    labels = model.get_base_model().config.id2label
    assert [scores[labels[at]] for at in range(len(labels))] == pytest.approx(expected, abs=SCORE_MAX)


@pytest.mark.nightly
def test_adapter_of_a_language_model_answers_as_peft(tmp_path: Path):
    """The same tokens."""
    base, lora = tmp_path / "base", tmp_path / "lora"
    architectures.build("llama", "text-generation", base)
    model = adapted(transformers.AutoModelForCausalLM, base, lora, kind="CAUSAL_LM")
    found = exported(lora, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    given = tokenizer(TEXTS[0], return_tensors="pt", return_token_type_ids=False)
    tokens = model.generate(**given, max_new_tokens=8, do_sample=False)[0, given["input_ids"].shape[1] :]
    (answer,) = inference.run(found.path, {"prompt": TEXTS[0], "max_new_tokens": 8})
    assert answer["text"].strip() == tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.nightly
def test_adapter_of_a_model_from_text_to_text_answers_as_peft(tmp_path: Path):
    """The same tokens, with the settings of the base model's generation_config."""
    base, lora = tmp_path / "base", tmp_path / "lora"
    architectures.build("t5", architectures.REWRITING, base)
    model = adapted(transformers.AutoModelForSeq2SeqLM, base, lora, kind="SEQ_2_SEQ_LM")
    found = exported(lora, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokens = model.generate(**tokenizer(TEXTS[0], return_tensors="pt"), num_beams=1, do_sample=False)[0]
    (answer,) = inference.run(found.path, {"text": TEXTS[0]})
    assert answer["text"] == tokenizer.decode(tokens, skip_special_tokens=True)
