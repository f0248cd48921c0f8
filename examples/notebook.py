"""From a transformers model in memory to an answer, in cells: open it in an editor that runs `# %%` cells.

    python examples/notebook.py          runs all cells; writes out/, fleet/ and barn-1/ to the current folder

The model finds the desk that a message is for. It is fine-tuned here within half a minute (`triage.py`).
"""

# %% Fine-tune a model: transformers as usual
import torch
import triage
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import edgeml

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(triage.encoder())
labels = dict(enumerate(triage.LABELS))
model = AutoModelForSequenceClassification.from_pretrained(
    triage.encoder(), num_labels=len(labels), id2label=labels, label2id={label: key for key, label in labels.items()}
)
triage.fine_tune(model, tokenizer, steps=25)

# %% Export it for a board: quantized to int8, checked against the original on labelled messages
rows = [{"text": text, "label": label} for text, label in triage.messages(100, seed=1)]
[bundle] = edgeml.export(
    model,
    targets=["x86-vnni"],
    processor=tokenizer,
    evaluate=rows,
    max_drop=0.02,
    name="triage",
    formats=["onnx"],
    output="out",
    progress=print,
)

# %% Read its card
card = bundle.card
print(f"{card.recipe}: {card.size_bytes / 1e6:.1f} MB, {card.size_bytes / card.baseline_size_bytes:.2f} x fp32")
print(card.accuracy.summary)

# %% Ask it, with the code that runs on the device
messages = ["a ewe is limping badly since yesterday", "the infusion pump reports an alarm", "the tractor won't start"]
for message, answer in zip(messages, bundle.run([{"text": message} for message in messages]), strict=True):
    print(f"{message}: {answer['labels'][0]['label']}")

# %% Sign it, enroll a device, and deploy to it
repository = edgeml.Repository.init("fleet", passphrase="")
repository.publish(bundle)
repository.enroll("barn-1", broker="mqtt://127.0.0.1", labels={"site": "farm-7"}, output="barn-1")
deployed = repository.deploy("triage", to="site=farm-7")
print(f"{deployed.deployment.id} for {', '.join(deployed.devices)}")

# %% [markdown]
# Then serve the fleet, with `edgeml.Fleet(repository, broker="mqtt://127.0.0.1").serve()`, and start the device with
# `edgeml-agent run --config barn-1/agent.toml`.
