"""A language model trained here, judged by its perplexity: as transformers has it, paired, and held to by the gate."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import transformers

from edgeml import targets
from edgeml.check import greedy_agreement, parity
from edgeml.pipeline.attempt import NothingPassed
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml.verify.emulation import emulated
from edgeml_core.errors import UsageError
from edgeml_core.processing import Generation
from edgeml_runtime.generate import greedy
from edgeml_runtime.generate.cache import Cache, Decoder
from edgeml_runtime.model import Model
from edgeml_runtime.unpack import unpacked
from support import breadth_models as models

WHO = ("The pump", "The filter", "The valve", "The scanner", "The fan", "The heater")
DID = ("has stopped", "was cleaned", "runs again", "makes a noise", "was replaced")
WHERE = ("in hall two", "in the stable", "near the gate", "on the roof", "behind the silo")
TEXTS = [f"{' '.join(parts)}." for parts in itertools.product(WHO, DID, WHERE)]
HELD_OUT, TRAINED = TEXTS[::3], [text for number, text in enumerate(TEXTS) if number % 3]
STEPS = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 that has learned how such sentences go on, in seconds."""
    folder = tmp_path_factory.mktemp("language") / "model"
    models.pretrained(folder, "gpt2", "text-generation")
    learner = transformers.AutoModelForCausalLM.from_pretrained(folder).train()
    given = models.tokenizer(160)(TRAINED, return_tensors="pt", padding=True)
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, STEPS)
    torch.manual_seed(0)
    for _ in range(STEPS):
        taken = torch.randint(len(TRAINED), (32,))
        loss = learner(
            input_ids=given["input_ids"][taken],
            attention_mask=given["attention_mask"][taken],
            labels=labels[taken],
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    learner.eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def passages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that the model has not seen."""
    path = tmp_path_factory.mktemp("passages") / "evaluate.jsonl"
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in HELD_OUT))
    return path


def ask(model: Path, passages: Path, output: Path, **changes: object) -> ExportRequest:
    return ExportRequest(
        **{
            "model": str(model),
            "targets": ("x86-vnni",),
            "formats": ("onnx",),
            "evaluate": passages,
            "output": output,
        }
        | changes
    )


def perplexity(model: Path) -> float:
    """Of the held-out texts, by transformers' own loss."""
    reader, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(model).eval(), models.tokenizer(160)
    total, count = 0.0, 0
    with torch.inference_mode():
        for text in HELD_OUT:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            total += float(reader(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    return math.exp(total / count)


def test_the_perplexity_is_transformers_own_and_int8_is_paired_with_it(model: Path, passages: Path, tmp_path: Path):
    """fp32 to five digits; the int8 that ships rises by at most what is accepted, with an interval around it."""
    (exported,) = export(ask(model, passages, tmp_path / "out", max_drop=0.05))
    card = exported.manifest.card
    found = card.accuracy
    assert found is not None
    assert (found.metric, found.rows) == ("perplexity", len(HELD_OUT))
    assert found.fp32 == pytest.approx(perplexity(model), rel=1e-5)
    assert found.fp32 < 3  # it has learned something: untrained it is near 400
    assert card.recipe != "none"
    assert found.drop == pytest.approx(found.int8 / found.fp32 - 1, abs=1e-5)
    assert found.drop <= 0.05
    assert found.ci95[0] < found.drop < found.ci95[1]


def test_a_rise_beyond_what_is_accepted_leaves_no_bundle(model: Path, tmp_path: Path):
    """Training left the least perplexity for the texts that the model learned, so other weights raise it."""
    learned = tmp_path / "learned.jsonl"
    learned.write_text("".join(f"{json.dumps({'text': text})}\n" for text in TRAINED))
    asked = ask(model, learned, tmp_path / "out", recipe="weight-only-4bit", max_drop=0.0001)
    with pytest.raises(NothingPassed) as caught:
        export(asked)
    ((tried, _),) = caught.value.candidates
    assert "perplexity rises by" in tried.why
    assert not (tmp_path / "out").exists()


def test_the_card_counts_the_texts_that_the_bundle_writes_as_transformers_does(
    model: Path, passages: Path, tmp_path: Path
):
    """Both go on with the first half of each text; 4 bits write some of them otherwise."""
    (exported,) = export(ask(model, passages, tmp_path / "out", recipe="weight-only-4bit", max_drop=1.0))
    original, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(model).eval(), models.tokenizer(160)
    same = 0
    with unpacked(exported.path) as bundle, torch.inference_mode():
        spec = bundle.manifest.postprocess
        assert isinstance(spec, Generation)
        session = Model.open(bundle.folder, bundle.manifest, threads=1).session
        for text in HELD_OUT:
            ids = tokenizer(text)["input_ids"]
            prompt = ids[: len(ids) // 2]
            given = torch.tensor([prompt])
            expected = original.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=greedy_agreement.TOKENS, do_sample=False
            )[0, len(prompt) :]
            cache = Cache(Decoder(bundle.manifest.inputs, spec), session)
            same += greedy.write(cache.read, prompt, greedy_agreement.TOKENS, spec.stop_ids) == expected.tolist()
    found = exported.manifest.card.greedy
    assert found
    assert (found.prompts, found.whole) == (len(HELD_OUT), same)
    assert same < len(HELD_OUT)
    assert found.fraction >= parity.DECISIONS_MIN


def test_four_bits_that_write_another_text_leave_their_place_to_int8(tmp_path: Path):
    """Weights at random choose between tokens by a hair: the logits' cosine alone would let 4 bits pass."""
    folder = tmp_path / "model"
    models.pretrained(folder, "gpt2", "text-generation")
    (exported,) = export(ask(folder, tmp_path, tmp_path / "out", evaluate=None))
    card = exported.manifest.card
    refused, shipped = card.tried
    assert (refused.recipe, shipped.recipe) == ("weight-only-4bit", "dynamic-s8")
    assert refused.cosine is not None
    assert refused.cosine >= parity.COSINE_MIN
    assert "are those that fp32 writes, below 95%" in refused.why
    assert card.greedy
    assert card.greedy.fraction >= parity.DECISIONS_MIN
    prefill = exported.measurements.prefill
    assert prefill
    assert prefill.tokens > 1
    assert exported.measurements.candidates[-1].prefill == prefill


def test_the_emulated_cpu_answers_with_a_perplexity_too(model: Path, passages: Path, tmp_path: Path):
    """Of the first rows, by the runtime there."""
    assert emulated.unready(targets.load("x86-gateway")) == ""
    (exported,) = export(ask(model, passages, tmp_path / "out", targets=("x86-gateway",), max_drop=0.05))
    (proved,) = exported.manifest.card.verified
    assert (proved.cpu, proved.how) == ("Haswell", "emulated")
    assert proved.accuracy is not None
    assert proved.accuracy.metric == "perplexity"
    assert proved.accuracy.drop <= 0.05


def test_a_row_without_a_text_is_named(model: Path, tmp_path: Path):
    """A prompt to go on with says nothing of perplexity."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "The pump"}\n')
    with pytest.raises(UsageError, match="line 1: no text"):
        export(ask(model, path, tmp_path / "out"))
