"""Answers are those that transformers gives: to questions by its pipeline, to prompts by its own generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from edgeml import inference
from edgeml.check.sample_texts import SENTENCES
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Format
from support import breadth_models as models
from support import tiny_chat

CONTEXT = (
    "The ventilator alarm sounded twice during the night shift. Please check the filter before the next shift begins, "
    "since the pump in hall two has stopped and nobody came."
)
#: Several windows long, and of other words at its end than at its beginning.
LONG = " ".join(SENTENCES[:12])
QUESTIONS = ("What sounded?", "When did the alarm sound?", "Which pump has stopped?", "Who came?", "Why?")
PROMPTS = ("The pump", "Turn the machine off before", "Water boils at", "Which of the two")


def exported(folder: Path, family: str, task: str, *formats: Format, tokens: int = 160) -> list[Exported]:
    """A tiny model in fp32, so that no rounding decides between two answers."""
    model = models.pretrained(folder / "model", family, task, tokens=tokens)
    request = ExportRequest(model=model, targets=("x86-vnni",), formats=formats, quantize="none", output=folder / "out")
    return export(request)


@pytest.mark.parametrize(
    ("family", "file_format"),
    [pytest.param("bert", "tflite", marks=pytest.mark.nightly), ("bert", "onnx"), ("roberta", "onnx")],
)
def test_questions_are_answered_as_the_pipeline_does(family: str, file_format: Format, tmp_path: Path):
    """The same span, text and score, in a context that is read at once and in longer ones, read in windows."""
    (bundle,) = exported(tmp_path, family, "question-answering", file_format, tokens=64)
    ask = transformers.pipeline("question-answering", model=str(tmp_path / "model"), device="cpu")
    asked = [{"question": question, "context": CONTEXT} for question in QUESTIONS]
    asked += [{"question": QUESTIONS[0], "context": context} for context in (CONTEXT[:58], LONG, f"{LONG} {CONTEXT}")]
    answers = inference.run(bundle.path, asked)
    for question, found in zip(asked, answers, strict=True):
        expected = ask(**question)
        assert found == expected | {"score": pytest.approx(expected["score"], rel=1e-3)}
    assert any(found["start"] > len(CONTEXT) for found in answers)


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


def test_a_chat_is_answered_as_transformers_does(chatting: tuple[Path, Exported]):
    """By the template that transformers renders, here as plain data; what comes is what the model has learnt."""
    folder, bundle = chatting
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    before = [{"role": "user", "content": "Where is the valve?"}, {"role": "assistant", "content": "On the left."}]
    for question, answer in tiny_chat.FACTS.items():
        for messages in ([], [{"role": "system", "content": "Be brief."}], before):
            said = [*messages, {"role": "user", "content": question}]
            given = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt")
            made = model.generate(given, max_new_tokens=20, do_sample=False)[0, given.shape[1] :]
            (found,) = inference.run(bundle.path, {"messages": said})
            assert found["text"] == tokenizer.decode(made, skip_special_tokens=True)
            assert (found["prompt_tokens"], found["tokens"]) == (given.shape[1], len(made))
        (found,) = inference.run(bundle.path, {"messages": [said[-1]]})
        assert (found["text"], found["finish"]) == (answer, "stop")


def test_an_answer_ends_before_a_stop(chatting: tuple[Path, Exported]):
    """However the model's tokens are cut."""
    asked = {"messages": [{"role": "user", "content": "Where is the valve?"}], "stop": ["the", "two, "]}
    (found,) = inference.run(chatting[1].path, asked)
    assert (found["text"], found["finish"]) == ("In hall ", "stop")


def test_drawing_from_the_likeliest_alone_is_taking_the_likeliest(chatting: tuple[Path, Exported]):
    """`top_p` of nothing leaves one token, at any temperature."""
    asked = {"messages": [{"role": "user", "content": "Who checks the filter?"}], "temperature": 5}
    texts = {inference.run(chatting[1].path, asked | {"top_p": 0, "seed": seed})[0]["text"] for seed in range(3)}
    assert texts == {"The night shift does."}


def test_a_template_that_is_no_plain_data_leaves_a_model_for_prompts(tmp_path: Path):
    """The card says so, and a chat is refused."""
    model = models.pretrained(tmp_path / "model", "gpt2", "text-generation")
    (tmp_path / "model/chat_template.jinja").write_text("{{ strftime_now('%d') }}{{ messages[0].content }}")
    request = ExportRequest(
        model=model, targets=("x86-vnni",), formats=("onnx",), quantize="none", output=tmp_path / "out"
    )
    (bundle,) = export(request)
    assert "it depends on the date; the model takes prompts only" in "".join(bundle.manifest.card.warnings)
    with pytest.raises(UsageError, match="no chat template"):
        inference.run(bundle.path, {"messages": [{"role": "user", "content": "Hello"}]})
    (found,) = inference.run(bundle.path, {"prompt": "Hello", "max_new_tokens": 3})
    assert found["tokens"] <= 3
