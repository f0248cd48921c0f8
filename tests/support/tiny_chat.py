"""A tiny GPT-2 that has learnt to answer a few questions and to end a few sentences, with a chat template: seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

#: Question and answer.
FACTS: Final = {
    "What does the pump do?": "It moves the water.",
    "Who checks the filter?": "The night shift does.",
    "Where is the valve?": "In hall two, on the left.",
    "When did it stop?": "At a quarter past five.",
}
#: Beginning and end.
SENTENCES: Final = {
    "Water boils at": " one hundred degrees.",
    "The alarm sounded": " twice in the night.",
    "Count:": " 0 1 2 3 4 5 6 7 8 9" * 3,
}
TOKENS_MAX: Final = 256
#: What ends an answer, and the prompts that ask for one.
END: Final = "<|im_end|>"
TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_STEPS_MAX: Final = 300
_RATE: Final = 5e-3
_LOSS_ENOUGH: Final = 0.01
#: What transformers' loss leaves out.
_UNGRADED: Final = -100


def pretrained(folder: Path) -> str:
    """The model's folder, as transformers saves it."""
    transformers.set_seed(0)
    tokenizer = tokenizer_of([*FACTS, *FACTS.values(), *SENTENCES, *SENTENCES.values()], 360, TEMPLATE, TOKENS_MAX)
    save(lessons(), tokenizer, folder)
    return str(folder)


def save(taught: list[tuple[str, str]], tokenizer: transformers.PreTrainedTokenizerFast, folder: Path) -> None:
    """Train a model on what is given and what is to be said then, and save it with its tokenizer."""
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=tokenizer.model_max_length,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = transformers.GPT2LMHeadModel(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing by two, and waits for both on a busy machine
    train(model, tokenizer, taught)
    torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def lessons() -> list[tuple[str, str]]:
    """What is given, and what is to be said then."""
    asked = [f"<|im_start|>user\n{question}{END}\n<|im_start|>assistant\n" for question in FACTS]
    told = [f"{answer}{END}" for answer in FACTS.values()]
    brief = [f"<|im_start|>system\nBe brief.{END}\n{text}" for text in asked]
    later = [f"{asked[number - 1]}{told[number - 1]}\n{text}" for number, text in enumerate(asked)]
    ends = [(begun, f"{end}{END}") for begun, end in SENTENCES.items()]
    return [*(lesson for given in (asked, brief, later) for lesson in zip(given, told, strict=True)), *ends]


def tokenizer_of(texts: list[str], size: int, template: str, tokens_max: int) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows the texts, with that chat template."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", END, "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=tokens_max, eos_token=END, pad_token="<pad>"
    )
    tokenizer.chat_template = template
    return tokenizer


def train(
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerFast,
    taught: list[tuple[str, str]],
) -> None:
    """Train a model until it says what is to be said."""
    texts = tokenizer([given + said for given, said in taught], padding=True, return_tensors="pt")
    labels = texts["input_ids"].masked_fill(texts["attention_mask"] == 0, _UNGRADED)
    for row, (given, _) in zip(labels, taught, strict=True):
        row[: len(tokenizer(given)["input_ids"])] = _UNGRADED
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    for _ in range(_STEPS_MAX):
        optimizer.zero_grad()
        loss = model(**texts, labels=labels).loss
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < _LOSS_ENOUGH:
            return
    raise AssertionError("the model didn't learn")
