"""Whisper: an encoder and a decoder in one graph, with the decoder's keys and values as inputs and outputs by name.

A run without keys and values of the encoder makes them of the sound. A run with them has a sound without frames, so the
encoder computes nothing. No operator branches on that: the attention reads both parts, of which one is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from edgeml.exporters.huggingface import audio
from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.source import Signature, Source, TorchModel
from edgeml.exporters.torch_session import ERROR_CHARS, Named, TorchSession, digest, first_answer
from edgeml_core.errors import UsageError
from edgeml_core.manifest import DTYPES, Task, TensorSpec
from edgeml_core.processing import INPUT_IDS, POSITIONS, AudioInput, DecodedTranscript
from edgeml_runtime.tensors import Array

ARCHITECTURE: Final = "WhisperForConditionalGeneration"
_FEATURES: Final = "input_features"
_LOGITS: Final = "logits"
_TASK: Final[Task] = "automatic-speech-recognition"
#: Frames of the sound to trace with.
_FRAMES_TRACED: Final = 100
_PARTS: Final = ("key", "value")
_NOTE: Final = (
    "the text is the likeliest token each time; transformers' pipeline searches five beams unless it is asked not to"
)
_Pair = tuple[torch.Tensor, torch.Tensor]


def source(path: Path, pretrained: Any, work: Path) -> Source:  # noqa: ANN401 -- transformers has no types here
    """Describe a loaded Whisper, with the files of its folder.

    Raises:
        UsageError: `model-unreadable`, without a usable tokenizer or feature extractor; `model-unsupported`, for other
            settings than Whisper's own.
    """
    sound = audio.log_mel_input(path)
    tokenizer = _tokenizer(path)
    file = work / folders.TOKENIZER
    tokenizer.backend_tokenizer.save(str(file), pretty=False)
    names = [
        tuple(f"{{}}.{layer}.{side}.{part}" for layer in range(pretrained.config.decoder_layers) for part in _PARTS)
        for side in ("decoder", "encoder")
    ]
    (past, cross), (present, cross_present) = (
        [tuple(name.format(prefix) for name in side) for side in names] for prefix in ("past_key_values", "present")
    )
    spec = _transcript(pretrained, tokenizer, (past, present), (cross, cross_present))
    example = _example(pretrained, sound, spec)
    outputs = (_LOGITS, *present, *cross_present)
    module = Named(Speech(pretrained, past, cross), tuple(example), outputs=outputs, by_keyword=True)
    original = TorchSession(module)
    with first_answer(_TASK, example):
        answered = original.run(example)
    return Source(
        name=path.resolve().name,
        task=_TASK,
        kind="encoder",
        sha256=digest(pretrained, path / "config.json", path / "preprocessor_config.json", file),
        signature=Signature(inputs=_specs(example), outputs=_specs(answered), preprocess=sound, postprocess=spec),
        example=example,
        original=original,
        original_name="PyTorch",
        assets={folders.TOKENIZER: file},
        model=TorchModel(module=module),
        tools={name: metadata.version(name) for name in ("torch", "transformers")},
        notes=(_NOTE,),
        folder=path,
    )


class Speech(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """Whisper's encoder and decoder with their keys and values as inputs and outputs by name.

    Args:
        pretrained: transformers' model.
        past: names of the decoder's keys and values.
        cross: names of the encoder's.
    """

    def __init__(self, pretrained: Any, past: tuple[str, ...], cross: tuple[str, ...]) -> None:  # noqa: ANN401 -- as above
        super().__init__()
        self.pretrained, self._past, self._cross = pretrained, past, cross

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits after the last token, and the present keys and values."""
        decoder = self.pretrained.model.decoder
        encoded = self._encoded(inputs[_FEATURES])
        positions = inputs[POSITIONS]
        states = decoder.embed_tokens(inputs[INPUT_IDS]) + decoder.embed_positions.weight[positions]
        present: list[torch.Tensor] = []
        crossed: list[torch.Tensor] = []
        for number, layer in enumerate(decoder.layers):
            at = slice(2 * number, 2 * number + 2)
            before, given = ([inputs[name] for name in names[at]] for names in (self._past, self._cross))
            attention, normed = layer.self_attn, layer.self_attn_layer_norm(states)
            pair = [torch.cat([old, new], 2) for old, new in zip(before, _pair(attention, normed), strict=True)]
            seen = torch.arange(pair[0].shape[2])[None, None, None] <= positions[:, None, :, None]
            states = states + _attended(attention, normed, (pair[0], pair[1]), mask=seen)
            own = _pair(layer.encoder_attn, encoded)
            normed = layer.encoder_attn_layer_norm(states)
            states = states + _attended(layer.encoder_attn, normed, (given[0], given[1]), own)
            states = states + _fed(layer, states)
            present += pair
            crossed += own
        logits = self.pretrained.proj_out(decoder.layer_norm(states[:, -1:]))
        names = [name.replace("past_key_values", "present") for name in (*self._past, *self._cross)]
        return {_LOGITS: logits, **dict(zip(names, [*present, *crossed], strict=True))}

    def _encoded(self, features: torch.Tensor) -> torch.Tensor:
        """[1, bins, frames] -> [1, positions, width]."""
        encoder = self.pretrained.model.encoder
        states = _convolved(encoder.conv1, features.transpose(1, 2))
        states = _convolved(encoder.conv2, states)
        states = states + encoder.embed_positions.weight[: states.shape[1]]
        for layer in encoder.layers:
            normed = layer.self_attn_layer_norm(states)
            states = states + _attended(layer.self_attn, normed, _pair(layer.self_attn, normed))
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


def _pair(attention: Any, states: torch.Tensor) -> _Pair:  # noqa: ANN401 -- as above
    """Keys and values, each [1, heads, positions, size]."""
    return _headed(attention, attention.k_proj(states)), _headed(attention, attention.v_proj(states))


def _headed(attention: Any, states: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 -- as above
    return states.reshape(1, -1, attention.num_heads, attention.head_dim).transpose(1, 2)


def _attended(attention: Any, states: torch.Tensor, *pairs: _Pair, mask: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ANN401 -- as above
    """Attend to all keys. Scores are joined, not the keys: of those a later run would copy megabytes."""
    query = _headed(attention, attention.q_proj(states) * attention.scaling)
    scores = torch.cat([query @ key.transpose(2, 3) for key, _ in pairs], -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    shares = torch.softmax(scores, -1)
    first = pairs[0][0].shape[2]
    found = shares[..., :first] @ pairs[0][1]
    if len(pairs) > 1:
        found = found + shares[..., first:] @ pairs[1][1]
    width = attention.num_heads * attention.head_dim
    joined: torch.Tensor = attention.out_proj(found.transpose(1, 2).reshape(1, -1, width))
    return joined


def _fed(layer: Any, states: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 -- as above
    fed: torch.Tensor = layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(states))))
    return fed


def _tokenizer(path: Path) -> Any:  # noqa: ANN401 -- as above
    try:
        return transformers.WhisperTokenizerFast.from_pretrained(path, local_files_only=True)
    except Exception as error:  # transformers lets errors of many kinds pass
        hint = "save the tokenizer too: AutoProcessor.from_pretrained(...).save_pretrained(FOLDER)"
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        raise UsageError("model-unreadable", f"transformers can't load {path}'s tokenizer: {reason}", hint) from error


def _transcript(
    pretrained: Any,  # noqa: ANN401 -- as above
    tokenizer: Any,  # noqa: ANN401 -- as above
    caches: tuple[tuple[str, ...], tuple[str, ...]],
    crosses: tuple[tuple[str, ...], tuple[str, ...]],
) -> DecodedTranscript:
    """Read the tokens that begin, end and never stand in a text.

    Source: transformers 4.57 `WhisperGenerationMixin._retrieve_init_tokens`, held equal by the oracle.
    """
    settings = pretrained.generation_config
    if getattr(settings, "return_timestamps", False):
        message = "the model's generation_config has return_timestamps, and edgeml writes no times"
        raise UsageError("model-unsupported", message, "set it to false, and save the model again")
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
        output=_LOGITS,
        tokenizer=folders.TOKENIZER,
        past=caches[0],
        present=caches[1],
        cross=crosses[0],
        cross_present=crosses[1],
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


def _language(settings: Any, languages: Mapping[str, int], given: list[int]) -> str | None:  # noqa: ANN401 -- as above
    """Find the language in which the model always writes, by its code; None if the sound decides."""
    language = getattr(settings, "language", None)
    if isinstance(language, str):
        lower = language.lower().strip("<|>")
        return str(TO_LANGUAGE_CODE.get(lower, lower))
    return next((code for code, token in languages.items() if token in given), None)


def _example(pretrained: Any, sound: AudioInput, spec: DecodedTranscript) -> dict[str, Array]:  # noqa: ANN401 -- as above
    """Make the inputs of a first run, in the converter's order."""
    config = pretrained.config
    assert sound.log_mel  # noqa: S101 -- `audio.log_mel_input` sets it
    heads = config.decoder_attention_heads
    empty = np.zeros((1, heads, 0, config.d_model // heads), np.float32)
    ids = np.array([[*spec.start, *list(spec.languages.values())[:1], *spec.task]])
    return {
        _FEATURES: np.zeros((1, sound.log_mel.bins, _FRAMES_TRACED), np.float32),
        INPUT_IDS: ids,
        POSITIONS: np.arange(ids.size)[np.newaxis],
        **dict.fromkeys((*spec.past, *spec.cross), empty),
    }


def _specs(tensors: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Make specs of any number of frames and tokens: the last axis of sounds and ids, the third of keys and values."""
    free = {_FEATURES: 2, INPUT_IDS: 1, POSITIONS: 1, _LOGITS: None}
    return tuple(
        TensorSpec(
            name=name,
            dtype=DTYPES[array.dtype.name],
            shape=tuple(-1 if axis == free.get(name, 2) else length for axis, length in enumerate(array.shape)),
        )
        for name, array in tensors.items()
    )
