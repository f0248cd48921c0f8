"""Rotary positions that transformers 5 wrote to config.json: earlier versions ignore them and take a default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import transformers

from edgeml_core.errors import UsageError

#: The first version that reads `rope_parameters` itself.
READ_SINCE: Final = 5
#: By kind of layer in the file: the attributes that earlier versions have for its theta.
_THETAS: Final = {
    "full_attention": ("global_rope_theta", "rope_theta"),
    "sliding_attention": ("local_rope_theta", "rope_local_base_freq"),
}


def config(path: Path) -> Any:  # noqa: ANN401 -- transformers has no types here
    """Load a folder's configuration with its rotary positions.

    Raises:
        UsageError: `model-unsupported`, when this version of transformers has no attribute for them.
    """
    found = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    given = json.loads((path / "config.json").read_bytes()).get("rope_parameters")
    if given and int(transformers.__version__.partition(".")[0]) < READ_SINCE:
        _translate(given, found)
    return found


def _translate(given: Mapping[str, Any], found: Any) -> None:  # noqa: ANN401 -- transformers has no types here
    if "rope_theta" in given:
        found.rope_theta = given["rope_theta"]
        _scale(given, found)
        return
    for layer, parameters in given.items():
        names = [name for name in _THETAS.get(layer, ()) if hasattr(found, name)]
        if not names or not isinstance(parameters, dict):
            raise _unknown(f"rope_parameters for {layer}")
        setattr(found, names[0], parameters["rope_theta"])
        if layer == "full_attention":
            _scale(parameters, found)
        elif parameters.get("rope_type", "default") != "default":
            raise _unknown(f"a rope_type for {layer}")


def _scale(given: Mapping[str, Any], found: Any) -> None:  # noqa: ANN401 -- transformers has no types here
    rest = {name: value for name, value in given.items() if name != "rope_theta"}
    if "partial_rotary_factor" in rest:
        found.partial_rotary_factor = rest.pop("partial_rotary_factor")
    found.rope_scaling = None if rest.get("rope_type", "default") == "default" else rest


def _unknown(what: str) -> UsageError:
    message = f"config.json has {what}, which transformers {transformers.__version__} can't express"
    return UsageError("model-unsupported", message, "save the model with transformers 4")
