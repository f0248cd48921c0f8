"""Loading transformers' weights, and a refusal of those that the files don't have: transformers makes them up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers

from edgeml.exporters.huggingface import rope
from edgeml.exporters.source import Source
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task

#: Weights named in a message.
SHOWN_MAX: Final = 4
#: Characters of transformers' own error in a message; it may list hundreds of names.
_REASON_MAX_CHARS: Final = 400
#: Of layers and positions in a configuration: ten times the largest known models'. Each layer is built, and a table of
#: positions filled, before the weights are compared with them.
_SIZES_MAX: Final = {"num_hidden_layers": 2000, "max_position_embeddings": 100_000_000}


def load(automatic: Any, path: Path) -> tuple[Any, frozenset[str]]:  # noqa: ANN401 -- transformers has no types here
    """Load a model in fp32 and evaluation mode.

    Weights that the files don't have become NaN, so that an answer shows whether it depends on them: a missing pooler
    under an unused output harms nothing, a missing head gives random answers.

    Args:
        automatic: transformers' class for the task.
        path: the model's folder.

    Returns:
        The model, and the names of those weights.

    Raises:
        UsageError: `model-unreadable`, when transformers can't load the model, or its sizes are beyond any model's;
            `model-unsupported`, when this version
            can't express its rotary positions.
    """
    try:
        config = rope.config(path)
        _check_size(config)
        model, found = automatic.from_pretrained(
            path,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **_attention(automatic, config),
        )
    except UsageError:
        raise
    except Exception as error:  # transformers and safetensors let errors of many kinds pass
        hint = "check that config.json and the weights are whole and belong together"
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_MAX_CHARS]
        raise UsageError("model-unreadable", f"transformers can't load {path}: {reason}", hint) from error
    missing = frozenset(found["missing_keys"])
    _fill(model, missing, torch.nan)
    return model.eval(), missing


def _attention(automatic: Any, config: Any) -> dict[str, str]:  # noqa: ANN401 -- transformers has no types here
    """Choose the attention that caps its scores for texts of such a model, as Gemma 2: transformers' default doesn't.

    Source: transformers 4.57 `sdpa_attention_forward`, which drops `softcap`; llama.cpp caps.
    """
    caps = automatic is transformers.AutoModelForCausalLM and getattr(config, "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if caps else {}


def _check_size(config: Any) -> None:  # noqa: ANN401 -- transformers has no types here
    """Refuse sizes that would fill this machine's memory before the weights show that they are wrong."""
    for name, most in _SIZES_MAX.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and value > most:
            message = f"config.json has {name} = {value}; {most} is the limit"
            raise UsageError("model-unreadable", message, "restore config.json")


def check_loaded(source: Source, model: Any, missing: Collection[str], path: Path, task: Task) -> None:  # noqa: ANN401
    """Check that no answer depends on weights that aren't finite, or that the files don't have; those become 0.

    Raises:
        UsageError: `model-unreadable`.
    """
    _check_finite(source, model, missing, path)
    if not missing:
        return
    if _has_nan(source.original.run(source.example)):
        names = sorted(missing)
        more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
        message = f"{path} has no weights for {', '.join(names[:SHOWN_MAX])}{more}, on which the {task} depends"
        hint = "name the task that the model was trained for with --task, or fine-tune it for this one"
        raise UsageError("model-unreadable", message, hint)
    _fill(model, missing, 0.0)


def _check_finite(source: Source, model: Any, missing: Collection[str], path: Path) -> None:  # noqa: ANN401 -- as above
    """Refuse weights in the files that are no numbers, where an answer depends on them."""
    parameters = (it for it in model.named_parameters() if it[0] not in missing)
    broken = [name for name, tensor in parameters if not torch.isfinite(tensor).all()]
    if broken and _has_nan(source.original.run(source.example)):
        more = f" and {len(broken) - SHOWN_MAX} more" if len(broken) > SHOWN_MAX else ""
        message = f"{path} has weights that are NaN or infinite: {', '.join(broken[:SHOWN_MAX])}{more}"
        raise UsageError("model-unreadable", message, "take a checkpoint from before the training diverged")


def _fill(model: Any, names: Collection[str], value: float) -> None:  # noqa: ANN401 -- transformers has no types here
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in names and tensor.is_floating_point():
                tensor.fill_(value)


def _has_nan(outputs: Mapping[str, Any]) -> bool:
    return any(np.isnan(array).any() for array in outputs.values())
