"""A tiny wav2vec 2.0 that has learnt to spell the English numbers from zero to nine, which espeak-ng speaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from support import sounds, tiny_whisper

#: What espeak-ng speaks, in lower case.
TEXTS: Final = tiny_whisper.NUMBERS["en"]
_LETTERS: Final = ("<pad>", "<s>", "</s>", "<unk>", "|", *sorted(set("".join(TEXTS).upper())))
_WIDTH: Final = 48
#: Convolutions: a frame each 20 ms, as the real models have.
_KERNELS, _STRIDES = (20, 8, 8), (10, 8, 4)
_STEPS_MAX: Final = 600
_RATE: Final = 2e-3
#: Below it, with noise beside the sounds, each text is the best path, also of one sound by itself and in int8.
_LOSS_ENOUGH: Final = 0.005
#: Spread of the noise, of sounds whose own is 1.
_NOISE: Final = 0.1
#: What transformers' loss leaves out.
_UNGRADED: Final = -100


def pretrained(folder: Path) -> str:
    """Write the model's folder, as transformers saves it."""
    transformers.set_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({letter: at for at, letter in enumerate(_LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    model = transformers.Wav2Vec2ForCTC(_config(tokenizer))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing by two
    _train(model, tokenizer, extractor)
    torch.set_num_threads(threads)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    model.eval().save_pretrained(folder)
    return str(folder)


def _config(tokenizer: Any) -> Any:
    return transformers.Wav2Vec2Config(
        vocab_size=len(_LETTERS),
        hidden_size=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * _WIDTH,
        conv_dim=(_WIDTH,) * len(_KERNELS),
        conv_kernel=_KERNELS,
        conv_stride=_STRIDES,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        apply_spec_augment=False,
        layerdrop=0.0,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        ctc_loss_reduction="mean",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _train(model: Any, tokenizer: Any, extractor: Any) -> None:
    spoken = [sounds.spoken(text, voice="en") for text in TEXTS]
    inputs = extractor(spoken, sampling_rate=sounds.SAMPLING_RATE_HZ, padding=True, return_tensors="pt")
    labels = tokenizer([text.upper() for text in TEXTS], padding=True, return_tensors="pt")
    sounding = inputs["input_values"]
    labels = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, _UNGRADED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    for _ in range(_STEPS_MAX):
        optimizer.zero_grad()
        noise = _NOISE * torch.randn_like(sounding)
        loss = model(input_values=sounding + noise, attention_mask=inputs["attention_mask"], labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if float(loss.detach()) < _LOSS_ENOUGH:
            return
    raise AssertionError(f"the model didn't learn: its loss is {float(loss.detach()):.3f}")
