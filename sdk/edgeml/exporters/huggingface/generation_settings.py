"""Settings of transformers' generation_config: a refusal of those that a bundle doesn't apply. It applies none."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from edgeml_core.errors import UsageError

#: Settings that change a text of likeliest tokens, with the value that leaves them out; an empty list does, too.
#: Source: transformers 4.57 `GenerationMixin._get_logits_processor` and `_get_stopping_criteria`.
_WITHOUT: Final[dict[str, Any]] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "constraints": None,
    "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_decoder_ids": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "max_time": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "penalty_alpha": 0.0,
    "repetition_penalty": 1.0,
    "sequence_bias": None,
    "stop_strings": None,
    "suppress_tokens": None,
    "token_healing": False,
    "watermarking_config": None,
}
#: transformers' `max_length` where none was set, in tokens. Source: transformers 4.57 `GenerationConfig`.
LENGTH_UNSET: Final = 20


def check(settings: Any, applied: Collection[str]) -> None:  # noqa: ANN401 -- transformers has no types here
    """Refuse settings that change the text and that the bundle doesn't apply.

    Args:
        settings: the model's generation_config.
        applied: names of those that it does.

    Raises:
        UsageError: `model-unsupported`, naming the setting and its value.
    """
    for name, without in _WITHOUT.items():
        given = getattr(settings, name, None)
        if name not in applied and given not in (without, None, [], {}):
            message = f"the model's generation_config has {name} = {given!r}, which edgeml doesn't apply"
            hint = f"set {name} to {without!r} in generation_config.json, if the texts may be others"
            raise UsageError("model-unsupported", message, hint)
