"""A tiny Whisper that has learnt to write the numbers from zero to nine, which espeak-ng speaks in two languages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import pre_tokenizers

from support import sounds

#: By the language's code, which is espeak-ng's voice, too.
NUMBERS: Final = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
}
#: Seconds of one window, and tokens with those that begin and end a text.
SECONDS: Final = 2
TOKENS_MAX: Final = 24
_BINS: Final = 20
_WIDTH: Final = 48
_END: Final = "<|endoftext|>"
_SPECIAL: Final = (
    *("<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>"),
    *("<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)
_TIMES: Final = 1 + SECONDS * 50
_STEPS_MAX: Final = 400
_RATE: Final = 3e-3
_LOSS_ENOUGH: Final = 0.01
#: What transformers' loss leaves out.
_UNGRADED: Final = -100


def spoken() -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    """Yield languages, texts and their sounds."""
    for language, words in NUMBERS.items():
        for word in words:
            yield language, word, sounds.spoken(word, voice=language)


def pretrained(folder: Path, *, steps: int = _STEPS_MAX) -> str:
    """Write the model's folder, as transformers saves it; with no `steps` its weights are random."""
    transformers.set_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=_BINS, chunk_length=SECONDS)
    model = _model(tokenizer)
    if steps:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so small a model gains nothing by two, and waits for both on a busy machine
        _train(model, tokenizer, extractor, steps)
        torch.set_num_threads(threads)
    else:
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, 0, 0.2)
        # transformers reads on from a time that it finds in a text; random weights write many.
        times = range(tokenizer.convert_tokens_to_ids(_SPECIAL[-1]) + 1, model.config.vocab_size)
        model.config.suppress_tokens += times
    for part in (model.eval(), tokenizer, extractor):
        part.save_pretrained(folder)
    return str(folder)


def _tokenizer(folder: Path) -> Any:
    """Make a tokenizer of bytes: Whisper's own without its words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({letter: at for at, letter in enumerate([*letters, _END])}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    tokenizer = transformers.WhisperTokenizer(*files, pad_token=_END)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    return tokenizer


def _model(tokenizer: Any) -> Any:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (_END, *_SPECIAL)}
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer) + _TIMES,
        num_mel_bins=_BINS,
        d_model=_WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * _WIDTH,
        decoder_ffn_dim=2 * _WIDTH,
        max_source_positions=50 * SECONDS,
        max_target_positions=TOKENS_MAX,
        dropout=0.0,
        pad_token_id=ids[_END],
        bos_token_id=ids[_END],
        eos_token_id=ids[_END],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        suppress_tokens=[tokenizer.convert_tokens_to_ids("#")],
        begin_suppress_tokens=[tokenizer.convert_tokens_to_ids("Ġ"), ids[_END]],
    )
    model = transformers.WhisperForConditionalGeneration(config)
    settings = model.generation_config
    settings._from_model_config = False  # else transformers drops all that follows when it loads the folder
    settings.lang_to_id = {f"<|{language}|>": ids[f"<|{language}|>"] for language in NUMBERS}
    settings.task_to_id = {task: ids[f"<|{task}|>"] for task in ("translate", "transcribe")}
    settings.no_timestamps_token_id = ids["<|notimestamps|>"]
    settings.is_multilingual, settings.return_timestamps = True, False
    settings.max_length = TOKENS_MAX
    return model


def _train(model: Any, tokenizer: Any, extractor: Any, steps: int) -> None:
    said = list(spoken())
    features = extractor([sound for *_, sound in said], sampling_rate=sounds.SAMPLING_RATE_HZ, return_tensors="pt")
    texts = [
        f"<|startoftranscript|><|{language}|><|transcribe|><|notimestamps|>{text}{_END}" for language, text, _ in said
    ]
    rows = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")["input_ids"]
    labels = rows[:, 1:].clone()
    lengths = torch.tensor([len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]) - 1
    labels[torch.arange(labels.shape[1])[None] >= lengths[:, None]] = _UNGRADED
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_features=features["input_features"], decoder_input_ids=rows[:, :-1], labels=labels).loss
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < _LOSS_ENOUGH:
            return
    raise AssertionError(f"the model didn't learn: its loss is {float(loss.detach()):.3f}")
