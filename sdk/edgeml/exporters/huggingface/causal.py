"""Causal language models, loaded with the KV cache of earlier tokens as inputs and outputs by name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

from edgeml.exporters.huggingface import chat_template, decoder_onnx, generation_settings
from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.huggingface.tool_template import Inexpressible
from edgeml.exporters.source import Signature, Source, TorchModel
from edgeml.exporters.torch_session import Named, TorchSession, digest, first_answer, specs
from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import (
    INPUT_IDS,
    LAST_TOKEN,
    LOGITS_AT,
    MASK,
    POSITIONS,
    TOKENS_SO_FAR,
    ChatTemplate,
    Generation,
    PromptInput,
)
from edgeml_runtime.encode.text import opened
from edgeml_runtime.tensors import Array

#: Axes of keys and of values: rows, heads, tokens, size.
CACHE_AXES = 4
#: A text to trace with.
_TRACED = "The pump in hall two has stopped."
#: Settings of texts that requests send, with the value that leaves them out.
_OF_REQUESTS = {"repetition_penalty": 1.0}
#: The same, where the model's tokens are drawn.
_OF_DRAWS = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}


def source(path: Path, pretrained: Any, work: Path) -> Source:  # noqa: ANN401 -- transformers has no types here
    """Describe a loaded language model, with the files of its folder.

    Raises:
        UsageError: `model-unreadable`, without a usable tokenizer; `model-unsupported`, for an unknown architecture,
            or settings of the text that edgeml doesn't apply.
    """
    generation_settings.check(pretrained.generation_config, _OF_REQUESTS)
    tokenizer = work / folders.TOKENIZER
    text = folders.text_input(path, tokenizer)
    example = _example(pretrained, opened(tokenizer).encode(_TRACED).ids)
    past = tuple(name for name in example if name.startswith("past_key_values."))
    present = tuple(name.replace("past_key_values", "present") for name in past)
    wrapped = InPlace if LOGITS_AT in example else WithPast
    module = Named(wrapped(pretrained, past), tuple(example), outputs=("logits", *present), by_keyword=True)
    original = TorchSession(module)
    with first_answer("text-generation", example):
        answered = original.run(example)
    stops = _stops(pretrained)
    chat, notes = _chat(path, opened(tokenizer), stops)
    return Source(
        name=path.resolve().name,
        task="text-generation",
        kind="decoder",
        sha256=digest(pretrained, path / "config.json", tokenizer),
        signature=Signature(
            inputs=_with_any_length(specs(example)),
            outputs=_with_any_length(specs(answered)),
            preprocess=PromptInput(tokenizer=text.tokenizer, max_length=text.max_length, chat=chat),
            postprocess=Generation(output="logits", stop_ids=stops, past=past, present=present),
        ),
        example=example,
        original=original,
        original_name="PyTorch",
        assets={folders.TOKENIZER: tokenizer},
        model=TorchModel(module=module, pretrained=pretrained),
        tools={name: metadata.version(name) for name in ("torch", "transformers")},
        notes=(*notes, *_options(pretrained.generation_config)),
        folder=path,
    )


def _stops(pretrained: Any) -> tuple[int, ...]:  # noqa: ANN401 -- transformers has no types here
    """Read the ids of tokens that end the model's generation; a chat model has several."""
    ids = pretrained.generation_config.eos_token_id
    return tuple(ids) if isinstance(ids, list) else () if ids is None else (ids,)


def _options(settings: Any) -> Iterator[str]:  # noqa: ANN401 -- as above
    """Note for the card the settings that the model's texts have in transformers, and here only by request."""
    expected = _OF_REQUESTS | (_OF_DRAWS if settings.do_sample else {})
    given = {name: getattr(settings, name, None) for name in expected}
    named = [f"{name} {it}" for name, it in given.items() if it not in (None, expected[name])]
    if named:
        yield f"the model's generation_config has {', '.join(named)}: requests have to send them"
    if (settings.num_beams or 1) > 1:
        yield f"the model's generation_config searches {settings.num_beams} beams, and edgeml none"


def _chat(path: Path, tokenizer: Tokenizer, stops: tuple[int, ...]) -> tuple[ChatTemplate | None, tuple[str, ...]]:
    """Read the chat template with its tools; without one or the other, a note for the card."""
    try:
        chat = chat_template.read(path, tokenizer)
    except Inexpressible as error:
        return None, (f"the chat template can't be expressed as plain data: {error}; the model takes prompts only",)
    if chat is None:
        return None, ()
    try:
        return chat_template.with_tools(path, tokenizer, chat, [tokenizer.id_to_token(it) or "" for it in stops]), ()
    except Inexpressible as error:
        note = f"the chat template's tools can't be expressed as plain data: {error}; requests with tools are refused"
        return chat, (note,)


class WithPast(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A language model with its KV cache as inputs and outputs by name.

    Args:
        pretrained: transformers' model.
        past: names of the cache's inputs: key and value of each layer.
    """

    def __init__(self, pretrained: torch.nn.Module, past: tuple[str, ...]) -> None:
        super().__init__()
        self.pretrained, self._past = pretrained, past

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits and the present keys and values."""
        before = [inputs.pop(name) for name in self._past]
        pairs = tuple(zip(before[::2], before[1::2], strict=True))
        cache = transformers.DynamicCache.from_legacy_cache(pairs)
        outputs = self.pretrained(**inputs, past_key_values=cache, use_cache=True)
        flat = [tensor for layer in outputs.past_key_values.to_legacy_cache() for tensor in layer]
        names = (name.replace("past_key_values", "present") for name in self._past)
        return {"logits": outputs.logits, **dict(zip(names, flat, strict=True))}


class InPlace(WithPast):
    """A language model with the inputs of one that writes its cache in place: see `decoder_onnx`."""

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the wanted logits, and the present keys and values."""
        wanted = inputs.pop(LOGITS_AT)
        del inputs[LAST_TOKEN], inputs[TOKENS_SO_FAR]
        outputs = super().forward(**inputs)
        return {**outputs, "logits": outputs["logits"][:, wanted]}


def _example(pretrained: Any, ids: list[int]) -> dict[str, Array]:  # noqa: ANN401 -- transformers has no types here
    """Make the inputs of a prompt with an empty cache, in the converter's order."""
    tokens = torch.tensor([ids])
    with torch.inference_mode(), first_answer("text-generation", ["input_ids"]):
        cache = getattr(pretrained(input_ids=tokens, use_cache=True), "past_key_values", None)
    layers = cache.to_legacy_cache() if isinstance(cache, transformers.DynamicCache) else ()
    if not layers or any(tensor.dim() != CACHE_AXES for layer in layers for tensor in layer):
        message = (
            f"a {pretrained.config.model_type} keeps no cache of keys and values, which edgeml generates text with"
        )
        raise UsageError("model-unsupported", message, "export a model of the GPT-2 or Llama type")
    empty = {
        f"past_key_values.{number}.{part}": tensor[:, :, :0].numpy()
        for number, layer in enumerate(layers)
        for part, tensor in zip(("key", "value"), layer, strict=True)
    }
    return _counted(pretrained, tokens, len(layers)) | empty


def _counted(pretrained: Any, tokens: torch.Tensor, layers: int) -> dict[str, Array]:  # noqa: ANN401 -- as above
    count = tokens.shape[1]
    positions = torch.arange(count)[None]
    if decoder_onnx.fits(pretrained, layers):
        last, so_far, wanted = np.array([count - 1], np.int32), np.array([count], np.int32), np.array([count - 1])
        given = (tokens.numpy(), positions.numpy(), last, so_far, wanted)
        return dict(zip(decoder_onnx.COUNTED, given, strict=True))
    from edgeml.exporters.huggingface import optimum_onnx  # noqa: PLC0415 -- imports optimum

    possible = {INPUT_IDS: tokens, MASK: torch.ones_like(tokens), POSITIONS: positions}
    names = optimum_onnx.causal_config(pretrained).inputs
    return {name: value.numpy() for name, value in possible.items() if name in names}


def _with_any_length(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Make lengths dynamic: the third axis of the cache, the last of ids and numbers, the second of logits."""
    axes = {CACHE_AXES: 2, 3: 1, 2: 1, 1: 0}
    return tuple(
        msgspec.structs.replace(it, shape=(*it.shape[:axis], -1, *it.shape[axis + 1 :]))
        for it in tensors
        for axis in (axes[len(it.shape)],)
    )
