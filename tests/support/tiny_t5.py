"""A tiny T5 that has learnt to translate the numbers from zero to nine, in both directions by T5's prefixes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
import transformers

from support import breadth_models, tiny_whisper

#: The beginning of a text, by the language of its translation.
PREFIXES: Final = {"de": "translate English to German: ", "en": "translate German to English: "}
TOKENS_MAX: Final = 16
_STEPS_MAX: Final = 600
_RATE: Final = 3e-3
_LOSS_ENOUGH: Final = 0.01
#: What transformers' loss leaves out.
_UNGRADED: Final = -100


def pairs() -> list[tuple[str, str]]:
    """Texts with their translations."""
    english, german = tiny_whisper.NUMBERS["en"], tiny_whisper.NUMBERS["de"]
    both = list(zip(english, german, strict=True))
    return [(PREFIXES["de"] + one, other) for one, other in both] + [
        (PREFIXES["en"] + other, one) for one, other in both
    ]


def pretrained(folder: Path) -> str:
    """Write the model's folder, as transformers saves it."""
    transformers.set_seed(0)
    tokenizer = breadth_models.tokenizer(64)
    config = transformers.T5Config(
        vocab_size=breadth_models.VOCABULARY,
        d_model=48,
        d_kv=24,
        d_ff=96,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = transformers.T5ForConditionalGeneration(config)
    model.generation_config.update(max_length=TOKENS_MAX, num_beams=4, no_repeat_ngram_size=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing by two, and waits for both on a busy machine
    _train(model, tokenizer)
    torch.set_num_threads(threads)
    for part in (model.eval(), tokenizer):
        part.save_pretrained(folder)
    return str(folder)


def _train(model: transformers.T5ForConditionalGeneration, tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    texts, translations = zip(*pairs(), strict=True)
    given = tokenizer(list(texts), padding=True, return_tensors="pt")
    # The decoder begins with its own token, not with the tokenizer's.
    labels = tokenizer(list(translations), padding=True, return_tensors="pt")["input_ids"][:, 1:].contiguous()
    labels[labels == tokenizer.pad_token_id] = _UNGRADED
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    for _ in range(_STEPS_MAX):
        optimizer.zero_grad()
        loss = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < _LOSS_ENOUGH:
            return
    raise AssertionError(f"the model didn't learn: its loss is {float(loss.detach()):.3f}")
