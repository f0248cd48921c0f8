"""Evaluation rows answered in shared runs by several threads: the answers are those of the original's own library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, pipeline

from edgeml.check import predictions
from edgeml.check.sample_texts import SENTENCES
from edgeml.exporters.load import load
from edgeml.pipeline.request import ExportRequest
from edgeml_core.manifest import Manifest
from edgeml_runtime.inputs import preparer
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Text
from support.minilm import model_folder
from support.samples import a_manifest

LABELS = ("cow", "barn", "vet")
TEXTS = [" ".join(sentence.split()[: 1 + at % 9]) for at, sentence in enumerate(SENTENCES * 8)][:200]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier with a real tokenizer."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("evaluation") / "clf"
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_predict_together_answers_as_the_pipeline_of_transformers(folder: Path, tmp_path: Path):
    """Text by text, and torch has its threads again afterwards."""
    source = load(ExportRequest(model=str(folder), targets=["x86-vnni"], output=tmp_path), tmp_path)
    signature = source.signature
    manifest: Manifest = a_manifest(
        inputs=signature.inputs,
        outputs=signature.outputs,
        preprocess=signature.preprocess,
        postprocess=signature.postprocess,
    )
    originals = [Model(source.original, manifest, preparer(folder, manifest)) for _ in range(2)]
    sizes: list[int] = []
    for original in originals:
        original.observed = lambda run: sizes.append(len(run.items))
    threads = torch.get_num_threads()
    found = predictions.predict_together(originals, [Text(text) for text in TEXTS])
    assert torch.get_num_threads() == threads
    assert max(sizes) > 8
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    for text, answer in zip(TEXTS, found, strict=True):
        expected = {it["label"]: it["score"] for it in classify([text])[0]}
        assert {it["label"]: it["score"] for it in answer["labels"]} == pytest.approx(expected, abs=1e-5)
