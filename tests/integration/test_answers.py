"""Answers are those that transformers gives: to questions by its pipeline, to prompts by its own generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

import breadth_models as models
from edgeml import inference, pipeline
from edgeml.export.request import Exported, ExportRequest
from edgeml_core.manifest import Format

CONTEXT = (
    "The ventilator alarm sounded twice during the night shift. Please check the filter before the next shift begins, "
    "since the pump in hall two has stopped and nobody came."
)
QUESTIONS = ("What sounded?", "When did the alarm sound?", "Which pump has stopped?", "Who came?", "Why?")
PROMPTS = ("The pump", "Turn the machine off before", "Water boils at", "Which of the two")


def exported(folder: Path, family: str, task: str, *formats: Format) -> list[Exported]:
    """A tiny model in fp32, so that no rounding decides between two answers."""
    model = models.pretrained(folder / "model", family, task)
    request = ExportRequest(model=model, targets=("x86-vnni",), formats=formats, quantize="none", output=folder / "out")
    return pipeline.export(request)


@pytest.mark.parametrize(("family", "file_format"), [("bert", "tflite"), ("bert", "onnx"), ("roberta", "onnx")])
def test_questions_are_answered_as_the_pipeline_does(family: str, file_format: Format, tmp_path: Path):
    """The same span, text and score."""
    (bundle,) = exported(tmp_path, family, "question-answering", file_format)
    ask = transformers.pipeline("question-answering", model=str(tmp_path / "model"), device="cpu")
    for question in QUESTIONS:
        expected = ask(question=question, context=CONTEXT)
        (found,) = inference.run(bundle.path, {"question": question, "context": CONTEXT})
        assert found == expected | {"score": pytest.approx(expected["score"], rel=1e-3)}


def test_a_prompt_is_gone_on_with_as_transformers_does(tmp_path: Path):
    """Greedily, token by token, each run with what the runs before it left."""
    (bundle,) = exported(tmp_path, "gpt2", "text-generation", "onnx")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    for prompt in PROMPTS:
        given = tokenizer(prompt, return_tensors="pt")
        made = model.generate(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=20, do_sample=False
        )[0]
        new = made[given["input_ids"].shape[1] :]
        (found,) = inference.run(bundle.path, {"prompt": prompt, "max_new_tokens": 20})
        assert found["tokens"] == len(new)
        assert found["finish"] == ("stop" if int(new[-1]) == model.config.eos_token_id else "length")
        assert found["text"] == tokenizer.decode(new, skip_special_tokens=True)


def test_drawing_is_repeated_by_its_seed(tmp_path: Path):
    """The same seed draws the same text, another seed another; a long prompt leaves room for fewer tokens."""
    (bundle,) = exported(tmp_path, "gpt2", "text-generation", "onnx")
    asked = {"prompt": "The pump", "max_new_tokens": 12, "temperature": 1.0}
    texts = [inference.run(bundle.path, asked | {"seed": seed})[0]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    (found,) = inference.run(bundle.path, {"prompt": "pump " * 30, "max_new_tokens": 1024})
    assert found["tokens"] < 160
