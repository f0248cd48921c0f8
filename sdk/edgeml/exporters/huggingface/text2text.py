"""Texts to texts by an encoder and a decoder, as T5, BART and Marian translate and summarize.

transformers' own layers compute all but the attention, which `encoder_decoder` replaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
import transformers

from edgeml.exporters.huggingface import encoder_decoder, generation_settings, marian_tokenizer
from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.huggingface.encoder_decoder import LOGITS, Caches, Meaning, Names
from edgeml.exporters.source import Source
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task, TensorSpec
from edgeml_core.processing import DECODER_IDS, INPUT_IDS, POSITIONS, DecodedText, TextInput
from edgeml_runtime.encode.text import Encoder
from edgeml_runtime.tasks import Text

TASK: Final[Task] = "text2text-generation"
ARCHITECTURES: Final = (
    "BartForConditionalGeneration",
    "BlenderbotForConditionalGeneration",
    "BlenderbotSmallForConditionalGeneration",
    "M2M100ForConditionalGeneration",
    "MBartForConditionalGeneration",
    "MT5ForConditionalGeneration",
    "MarianMTModel",
    "PLBartForConditionalGeneration",
    "PegasusForConditionalGeneration",
    "T5ForConditionalGeneration",
    "UMT5ForConditionalGeneration",
)
#: A text to trace with.
_TRACED: Final = "The pump in hall two has stopped."
#: The tokens and beams of transformers' pipeline where none were set.
#: Source: transformers 4.57 `Text2TextGenerationPipeline`.
_NEW_TOKENS: Final = 256
_BEAMS: Final = 4
#: Settings of texts that a bundle applies.
_APPLIED: Final = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "suppress_tokens",
)


def source(path: Path, pretrained: Any, work: Path) -> Source:  # noqa: ANN401 -- transformers has no types here
    """Describe a loaded model, with the files of its folder.

    Raises:
        UsageError: `model-unreadable`, without a usable tokenizer; `model-unsupported`, for settings of the text that
            edgeml doesn't know.
    """
    if (named := type(pretrained).__name__) not in ARCHITECTURES:
        message = f"{TASK} is for {', '.join(ARCHITECTURES)}; this model is a {named}"
        raise UsageError("model-unsupported", message, "export it as file.py:function, which answers with tensors")
    pretrained.set_attn_implementation("eager")
    attentions = encoder_decoder.replace(pretrained)
    names = Names.of(len(attentions) // 2)  # each layer has one over its own tokens, and one over the encoder's
    text, assets, split = _text(path, work)
    if prefix := getattr(pretrained.config, "prefix", None):
        text = msgspec.structs.replace(text, prompt=prefix)
    spec, notes = _written(pretrained, names)
    spec = msgspec.structs.replace(spec, tokenizer=[*assets][-1])
    example = encoder_decoder.first_run(_read(assets[text.tokenizer], text), spec.start, names, attentions[0])
    meaning = Meaning(TASK, text, spec, assets, (*notes, *split))
    return encoder_decoder.source(path, pretrained, Rewriter(pretrained, names), example, meaning)


class Rewriter(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """An encoder with its decoder, whose keys and values are inputs and outputs by name.

    Args:
        pretrained: transformers' model, with attention by `encoder_decoder.replace`.
        names: of keys and values.
    """

    def __init__(self, pretrained: Any, names: Names) -> None:  # noqa: ANN401 -- as above
        super().__init__()
        self.pretrained, self._names = pretrained, names

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits after the last token, and the present keys and values."""
        encoder = self.pretrained.get_encoder()
        # Not by ids: transformers reshapes them in a way that fails for a text without tokens.
        embedded = encoder.embed_tokens(inputs[INPUT_IDS]) * getattr(encoder, "embed_scale", 1.0)
        caches = Caches(self._names, inputs)
        outputs = self.pretrained(
            encoder_outputs=(encoder(inputs_embeds=embedded)[0],),
            decoder_input_ids=inputs[DECODER_IDS],
            decoder_attention_mask=caches.seen,
            past_key_values=caches,
            cache_position=inputs[POSITIONS][0],
            use_cache=True,
        )
        return {LOGITS: outputs.logits[:, -1:], **caches.made}


def _text(path: Path, work: Path) -> tuple[TextInput, dict[str, Path], tuple[str, ...]]:
    """Read the preprocessing of texts.

    Returns:
        It, the tokenizers' files, of which the decoder has the last one, and notes for the card.
    """
    file, source = work / folders.TOKENIZER, work / f"source-{folders.TOKENIZER}"
    if marian_tokenizer.is_given(path):
        target = work / marian_tokenizer.TARGET
        notes = marian_tokenizer.write(path, source, target)
        return folders.text_input(path, file, source), {folders.TOKENIZER: file, target.name: target}, notes
    encoder_decoder.fast_tokenizer(transformers.AutoTokenizer, path, source)
    return folders.text_input(path, file, source), {folders.TOKENIZER: file}, ()


def _read(tokenizer: Path, text: TextInput) -> dict[str, Any]:
    ids = TensorSpec(name=INPUT_IDS, dtype="int64", shape=(1, -1))
    tensors, _ = Encoder(tokenizer, text, (ids,)).encode([Text(_TRACED)])
    return tensors


def _written(pretrained: Any, names: Names) -> tuple[DecodedText, tuple[str, ...]]:  # noqa: ANN401 -- as above
    """Read how the model's texts begin and end, and what never stands in one; with notes for the card.

    Source: transformers 4.57 `GenerationMixin._get_logits_processor`, held equal by the oracle.

    Raises:
        UsageError: `model-unsupported`.
    """
    settings = pretrained.generation_config
    generation_settings.check(settings, _APPLIED)
    start = (settings.decoder_start_token_id, settings.bos_token_id)
    begun = next((it for it in start if it is not None), None)
    stops = _ids(settings.eos_token_id)
    if begun is None or not stops:
        message = "the model's generation_config has no decoder_start_token_id or no eos_token_id"
        raise UsageError("model-unsupported", message, "set both, and save the model again")
    spec = DecodedText(
        output=LOGITS,
        tokenizer=folders.TOKENIZER,
        **names._asdict(),
        start=(begun, *_ids(settings.forced_bos_token_id)[:1]),
        stop_ids=stops,
        suppressed=(*(it for it in settings.suppress_tokens or () if it >= 0), *_bad_tokens(settings, stops)),
        suppressed_first=tuple(it for it in settings.begin_suppress_tokens or () if it >= 0),
        min_tokens=max(settings.min_length or 0, 1 + (settings.min_new_tokens or 0)),
        max_tokens=_tokens_max(pretrained, settings),
        no_repeat=settings.no_repeat_ngram_size or 0,
        no_repeat_read=settings.encoder_no_repeat_ngram_size or 0,
        repetition_penalty=settings.repetition_penalty or 1.0,
    )
    return spec, tuple(_notes(settings))


def _ids(given: int | list[int] | None) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, list) else () if given is None else (given,)


def _bad_tokens(settings: Any, stops: tuple[int, ...]) -> Iterator[int]:  # noqa: ANN401 -- as above
    for bad in settings.bad_words_ids or ():
        if len(bad) > 1:
            message = f"the model's generation_config has bad_words_ids of {len(bad)} tokens; edgeml knows single ones"
            raise UsageError("model-unsupported", message, "leave them out, and save the model again")
        yield from (it for it in bad if it not in stops)


def _tokens_max(pretrained: Any, settings: Any) -> int:  # noqa: ANN401 -- as above
    """Count the tokens of the longest text with the first one; a forced last one is no part of it."""
    new, length = settings.max_new_tokens, settings.max_length
    has_length = new is None and length not in (None, generation_settings.LENGTH_UNSET)
    found = length if has_length else 1 + (new or _NEW_TOKENS)
    if settings.forced_eos_token_id is not None:
        found -= 1
    positions = getattr(pretrained.config, "max_position_embeddings", None)
    return int(min(found, positions or found))


def _notes(settings: Any) -> Iterator[str]:  # noqa: ANN401 -- as above
    beams = settings.num_beams if settings.num_beams and settings.num_beams > 1 else _BEAMS
    yield f"the text is the likeliest token each time; transformers' pipeline searches {beams} beams"
    if settings.do_sample:
        yield "the model's generation_config has do_sample, and edgeml draws no tokens"
