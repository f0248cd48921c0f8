"""Whisper: its encoder and decoder in one graph without branches, as `encoder_decoder` has it for texts.

Layers are written out: transformers' own encoder takes a whole window only, and convolutions take no sound without
frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from edgeml.exporters.huggingface import audio, encoder_decoder, generation_settings
from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.huggingface.encoder_decoder import LOGITS, Attention, Caches, Meaning, Names
from edgeml.exporters.source import Source
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task
from edgeml_core.processing import DECODER_IDS, POSITIONS, AudioInput, DecodedTranscript
from edgeml_runtime.tensors import Array

ARCHITECTURE: Final = "WhisperForConditionalGeneration"
_FEATURES: Final = "input_features"
_TASK: Final[Task] = "automatic-speech-recognition"
#: Settings of texts that a bundle applies.
_APPLIED: Final = ("begin_suppress_tokens", "forced_decoder_ids", "suppress_tokens")
#: Frames of the sound to trace with.
_FRAMES_TRACED: Final = 100
_NOTE: Final = (
    "the text is the likeliest token each time; transformers' pipeline searches five beams unless it is asked not to"
)


def source(path: Path, pretrained: Any, work: Path) -> Source:  # noqa: ANN401 -- transformers has no types here
    """Describe a loaded Whisper, with the files of its folder.

    Raises:
        UsageError: `model-unreadable`, without a usable tokenizer or feature extractor; `model-unsupported`, for other
            settings than Whisper's own.
    """
    sound = audio.log_mel_input(path)
    file = work / folders.TOKENIZER
    tokenizer = encoder_decoder.fast_tokenizer(transformers.WhisperTokenizerFast, path, file)
    names = Names.of(pretrained.config.decoder_layers)
    spec = _transcript(pretrained, tokenizer, names)
    example = _example(pretrained, sound, spec, names)
    notes = (_NOTE, *_lengths(pretrained))
    meaning = Meaning(_TASK, sound, spec, {folders.TOKENIZER: file}, notes)
    return encoder_decoder.source(path, pretrained, Speech(pretrained, names), example, meaning)


class Speech(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """Whisper's encoder and decoder with their keys and values as inputs and outputs by name.

    Args:
        pretrained: transformers' model.
        names: of keys and values.
    """

    def __init__(self, pretrained: Any, names: Names) -> None:  # noqa: ANN401 -- as above
        super().__init__()
        self.pretrained, self._names = pretrained, names

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits after the last token, and the present keys and values."""
        decoder = self.pretrained.model.decoder
        encoded = self._encoded(inputs[_FEATURES])
        caches = Caches(self._names, inputs)
        states = decoder.embed_tokens(inputs[DECODER_IDS]) + decoder.embed_positions.weight[inputs[POSITIONS]]
        for number, layer in enumerate(decoder.layers):
            attention, normed = Attention(layer.self_attn), layer.self_attn_layer_norm(states)
            pair = caches.joined(number, attention.pair(normed))
            states = states + attention.attend(normed, pair, mask=caches.seen)
            attention, normed = Attention(layer.encoder_attn), layer.encoder_attn_layer_norm(states)
            states = states + attention.attend(normed, *caches.crossed(number, attention.pair(encoded)))
            states = states + _fed(layer, states)
        return {LOGITS: self.pretrained.proj_out(decoder.layer_norm(states[:, -1:])), **caches.made}

    def _encoded(self, features: torch.Tensor) -> torch.Tensor:
        """[1, bins, frames] -> [1, positions, width]."""
        encoder = self.pretrained.model.encoder
        states = _convolved(encoder.conv1, features.transpose(1, 2))
        states = _convolved(encoder.conv2, states)
        states = states + encoder.embed_positions.weight[: states.shape[1]]
        for layer in encoder.layers:
            normed = layer.self_attn_layer_norm(states)
            attention = Attention(layer.self_attn)
            states = states + attention.attend(normed, attention.pair(normed))
            states = states + _fed(layer, states)
        return encoder.layer_norm(states)


def _convolved(part: Any, rows: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 -- as above
    """Convolve by a kernel of 3 as one matrix product, which quantizers take, and which takes no rows.

    Args:
        part: transformers' convolution.
        rows: [1, frames, channels].
    """
    step = part.stride[0]
    around = torch.nn.functional.pad(rows, (0, 0, 1, 1))
    three = torch.cat([around[:, :-2:step], around[:, 1:-1:step], around[:, 2::step]], -1)
    weights = part.weight.permute(2, 1, 0).reshape(-1, part.out_channels)
    return torch.nn.functional.gelu(three @ weights + part.bias)


def _fed(layer: Any, states: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 -- as above
    fed: torch.Tensor = layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(states))))
    return fed


def _transcript(pretrained: Any, tokenizer: Any, names: Names) -> DecodedTranscript:  # noqa: ANN401 -- as above
    """Read the tokens that begin, end and never stand in a text.

    Source: transformers 4.57 `WhisperGenerationMixin._retrieve_init_tokens`, held equal by the oracle.

    Raises:
        UsageError: `model-unsupported`, for settings of the text that edgeml doesn't apply.
    """
    settings = pretrained.generation_config
    if getattr(settings, "return_timestamps", False):
        message = "the model's generation_config has return_timestamps, and edgeml writes no times"
        raise UsageError("model-unsupported", message, "set it to false, and save the model again")
    generation_settings.check(settings, _APPLIED)
    plain = getattr(settings, "no_timestamps_token_id", None)
    named: Mapping[str, int] = getattr(settings, "lang_to_id", None) or {}
    languages = {token[2:-2]: number for token, number in named.items()}
    forced = getattr(settings, "forced_decoder_ids", None) or getattr(pretrained.config, "forced_decoder_ids", None)
    given = [token for _, token in forced or () if token is not None]
    tasks: Mapping[str, int] = getattr(settings, "task_to_id", None) or {}
    named_task = getattr(settings, "task", None) or "transcribe"
    task = [number for name, number in tasks.items() if name == named_task] if languages else given
    end = settings.eos_token_id
    return DecodedTranscript(
        output=LOGITS,
        tokenizer=folders.TOKENIZER,
        **names._asdict(),
        start=(settings.decoder_start_token_id,),
        task=(*task, *(() if plain is None or plain in task else (plain,))),
        languages=languages,
        language=_language(settings, languages, given),
        stop_ids=tuple(end) if isinstance(end, list) else (end,),
        suppressed=tuple(it for it in settings.suppress_tokens or () if it >= 0),
        suppressed_first=tuple(it for it in settings.begin_suppress_tokens or () if it >= 0),
        times_from=tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1,
        max_tokens=pretrained.config.max_target_positions,
        clean_up=bool(tokenizer.clean_up_tokenization_spaces),
    )


def _lengths(pretrained: Any) -> Iterator[str]:  # noqa: ANN401 -- as above
    """Note for the card that the model's own texts are shorter."""
    own, most = pretrained.generation_config.max_length, pretrained.config.max_target_positions
    if own not in (None, generation_settings.LENGTH_UNSET) and own < most:
        yield f"the model's generation_config has max_length {own}; edgeml writes texts of up to {most} tokens"


def _language(settings: Any, languages: Mapping[str, int], given: list[int]) -> str | None:  # noqa: ANN401 -- as above
    """Find the language in which the model always writes, by its code; None if the sound decides."""
    language = getattr(settings, "language", None)
    if isinstance(language, str):
        lower = language.lower().strip("<|>")
        return str(TO_LANGUAGE_CODE.get(lower, lower))
    return next((code for code, token in languages.items() if token in given), None)


def _example(
    pretrained: Any,  # noqa: ANN401 -- as above
    sound: AudioInput,
    spec: DecodedTranscript,
    names: Names,
) -> dict[str, Array]:
    """Make the inputs of a first run, in the converter's order."""
    assert sound.log_mel  # noqa: S101 -- `audio.log_mel_input` sets it
    features = np.zeros((1, sound.log_mel.bins, _FRAMES_TRACED), np.float32)
    ids = [*spec.start, *list(spec.languages.values())[:1], *spec.task]
    attention = Attention(pretrained.model.decoder.layers[0].self_attn)
    return encoder_decoder.first_run({_FEATURES: features}, ids, names, attention)
