"""An encoder and a decoder in one graph without branches: keys and values of both are inputs and outputs by name.

The first run reads a text or a sound, and has no keys and values of the encoder. Later runs have them, and read
nothing. So attention over the encoder multiplies by both parts, of which one is empty, and copies neither:
decision 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from edgeml.exporters.source import Signature, Source, TorchModel
from edgeml.exporters.torch_session import ERROR_CHARS, Named, TorchSession, digest, first_answer
from edgeml_core.errors import UsageError
from edgeml_core.manifest import DTYPES, Task, TensorSpec
from edgeml_core.processing import DECODER_IDS, POSITIONS, DecodedText, DecodedTranscript, Preprocess
from edgeml_runtime.tensors import Array

LOGITS: Final = "logits"
_PAST: Final = "past_key_values"
_PRESENT: Final = "present"
#: By the number of axes: the one of any length, of ids, of a sound, and of keys and values.
_FREE_AXES: Final = {2: 1, 3: 2, 4: 2}
#: Files beside weights and tokenizer that decide on a model's answers.
_SETTINGS: Final = ("config.json", "generation_config.json", "preprocessor_config.json")
Pair = tuple[torch.Tensor, torch.Tensor]


class Names(NamedTuple):
    """The names of keys and values, by layer: of the decoder before and after a run, and of the encoder."""

    past: tuple[str, ...]
    present: tuple[str, ...]
    cross: tuple[str, ...]
    cross_present: tuple[str, ...]

    @classmethod
    def of(cls, layers: int) -> Names:
        """Make the names for a number of decoder layers."""
        made = (
            tuple(f"{prefix}.{layer}.{side}.{part}" for layer in range(layers) for part in ("key", "value"))
            for side in ("decoder", "encoder")
            for prefix in (_PAST, _PRESENT)
        )
        return cls(*made)


class Attention:
    """One layer's attention by its own weights.

    Args:
        part: transformers' module, of the family of T5 or of BART, to which Whisper belongs.
    """

    def __init__(self, part: Any) -> None:  # noqa: ANN401 -- transformers has no types here
        self._part = part
        #: The layer's number, where it is the decoder's.
        self.layer: int = getattr(part, "layer_idx", None) or 0
        if hasattr(part, "q_proj"):
            self._query, self._key, self._value, self._out = part.q_proj, part.k_proj, part.v_proj, part.out_proj
            self.heads, self.size = part.num_heads, part.head_dim
        else:
            self._query, self._key, self._value, self._out = part.q, part.k, part.v, part.o
            self.heads, self.size = part.n_heads, part.key_value_proj_dim
        self._scaling = getattr(part, "scaling", 1.0)

    def pair(self, states: torch.Tensor) -> Pair:
        """Make keys and values, each [1, heads, positions, size]."""
        return self._headed(self._key(states)), self._headed(self._value(states))

    def attend(
        self,
        states: torch.Tensor,
        *pairs: Pair,
        mask: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend to all keys. Scores are joined, not the keys: of those a later run would copy megabytes.

        Args:
            states: [1, tokens, width].
            pairs: keys and values, in one part or two.
            mask: which keys each token sees; None for all.
            bias: added to the scores.
        """
        query = self._headed(self._query(states) * self._scaling)
        scores = torch.cat([query @ key.transpose(2, 3) for key, _ in pairs], -1)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        shares = torch.softmax(scores, -1)
        first = pairs[0][0].shape[2]
        found = shares[..., :first] @ pairs[0][1]
        if len(pairs) > 1:
            found = found + shares[..., first:] @ pairs[1][1]
        joined: torch.Tensor = self._out(found.transpose(1, 2).reshape(1, -1, self.heads * self.size))
        return joined

    def bias(self, given: torch.Tensor | None, keys: int, positions: torch.Tensor | None) -> torch.Tensor | None:
        """Return T5's bias by the distance of tokens: of a layer before this one, or this one's own.

        Args:
            given: the one of the layer before.
            keys: their number.
            positions: of the tokens that attend; None for all from the first on.
        """
        if given is not None or not getattr(self._part, "has_relative_attention_bias", False):
            return given
        found: torch.Tensor = self._part.compute_bias(keys, keys, cache_position=positions)
        return found

    def _headed(self, states: torch.Tensor) -> torch.Tensor:
        return states.reshape(1, -1, self.heads, self.size).transpose(1, 2)


class Caches:
    """The keys and values that one run is given and makes, in the place of transformers' cache.

    Args:
        names: of all of them.
        inputs: of the run.
    """

    #: transformers asks each cache for it.
    is_compileable: Final = False

    def __init__(self, names: Names, inputs: Mapping[str, torch.Tensor]) -> None:
        self._names, self._inputs = names, inputs
        positions = inputs[POSITIONS]
        keys = torch.arange(self.get_seq_length() + positions.shape[1])
        #: Which keys each new token sees, [1, 1, tokens, all tokens].
        self.seen = keys[None, None, None] <= positions[:, None, :, None]
        self.made: dict[str, torch.Tensor] = {}

    def get_seq_length(self, *_: object) -> int:
        """Count the tokens before this run."""
        count: int = self._inputs[self._names.past[0]].shape[2]
        return count

    def joined(self, layer: int, own: Pair) -> Pair:
        """Put new keys and values of the decoder behind the earlier ones."""
        at = slice(2 * layer, 2 * layer + 2)
        key, value = (torch.cat([self._inputs[it], new], 2) for it, new in zip(self._names.past[at], own, strict=True))
        self.made |= dict(zip(self._names.present[at], (key, value), strict=True))
        return key, value

    def crossed(self, layer: int, own: Pair) -> tuple[Pair, Pair]:
        """Return the encoder's keys and values: those given, and those that this run makes."""
        at = slice(2 * layer, 2 * layer + 2)
        self.made |= dict(zip(self._names.cross_present[at], own, strict=True))
        key, value = (self._inputs[it] for it in self._names.cross[at])
        return (key, value), own


def fast_tokenizer(automatic: Any, path: Path, file: Path) -> Any:  # noqa: ANN401 -- as above
    """Load a folder's tokenizer as transformers does, which may change or convert its files; save what it has then.

    Args:
        automatic: transformers' class.
        path: the model's folder.
        file: the destination.

    Raises:
        UsageError: `model-unreadable`.
    """
    hint = "save the fast tokenizer too: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
    try:
        tokenizer = automatic.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        tokenizer.backend_tokenizer.save(str(file), pretty=False)
    except Exception as error:  # transformers lets errors of many kinds pass
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_CHARS]
        raise UsageError("model-unreadable", f"transformers can't load {path}'s tokenizer: {reason}", hint) from error
    return tokenizer


class Meaning(NamedTuple):
    """The meaning of a model's tensors, with the files that it needs and notes for the card."""

    task: Task
    preprocess: Preprocess
    postprocess: DecodedTranscript | DecodedText
    assets: Mapping[str, Path]
    notes: tuple[str, ...]


def source(
    path: Path,
    pretrained: Any,  # noqa: ANN401 -- as above
    module: torch.nn.Module,
    example: Mapping[str, Array],
    meaning: Meaning,
) -> Source:
    """Describe an encoder with a decoder.

    Args:
        path: the model's folder.
        pretrained: transformers' model.
        module: takes the tensors of `first_run` by name, and returns the logits, the keys and the values.
        example: from `first_run`.
        meaning: of its tensors.

    Raises:
        UsageError: `model-unsupported`, when it gives no answer.
    """
    spec = meaning.postprocess
    outputs = (spec.output, *spec.present, *spec.cross_present)
    named = Named(module, tuple(example), outputs=outputs, by_keyword=True)
    original = TorchSession(named)
    with first_answer(meaning.task, example):
        answered = original.run(example)
    settings = (path / name for name in _SETTINGS if (path / name).exists())
    return Source(
        name=path.resolve().name,
        task=meaning.task,
        kind="encoder",
        sha256=digest(pretrained, *settings, *meaning.assets.values()),
        signature=Signature(
            inputs=_specs(example), outputs=_specs(answered), preprocess=meaning.preprocess, postprocess=spec
        ),
        example=example,
        original=original,
        original_name="PyTorch",
        assets=meaning.assets,
        model=TorchModel(module=named),
        tools={name: metadata.version(name) for name in ("torch", "transformers")},
        notes=meaning.notes,
        folder=path,
    )


def replace(pretrained: Any) -> list[Attention]:  # noqa: ANN401 -- as above
    """Let all attention modules of an encoder with a decoder compute as `Attention`; return the decoder's own.

    Embeddings lose the number of their padding token, which matters for training only and warns in a trace.
    """
    parts = {
        part: Attention(part)
        for part in pretrained.modules()
        if type(part).__name__.endswith("Attention") and (hasattr(part, "q_proj") or hasattr(part, "q"))
    }
    for part in pretrained.modules():
        if isinstance(part, torch.nn.Embedding):
            part.padding_idx = None
        if type(part).__name__ == "M2M100SinusoidalPositionalEmbedding":
            part.forward = partial(_waves, part)
    for part, attention in parts.items():
        part.forward = partial(_forward, attention)
    return [parts[part] for part in pretrained.get_decoder().modules() if part in parts]


def _waves(
    part: Any,  # noqa: ANN401 -- as above
    input_ids: torch.Tensor | None,  # noqa: ARG001 -- transformers' signature
    inputs_embeds: torch.Tensor,
    past_key_values_length: int = 0,
) -> torch.Tensor:
    """Take M2M100's positions from their table, which transformers makes longer by a branch, and reshapes."""
    positions = torch.arange(inputs_embeds.shape[1]) + past_key_values_length + part.padding_idx + 1
    found: torch.Tensor = part.weights[positions][None]
    return found


def _forward(
    attention: Attention,
    hidden_states: torch.Tensor,
    *,
    key_value_states: torch.Tensor | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    past_key_values: Caches | None = None,
    cache_position: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend, with the arguments of transformers' modules; return the states, and T5's bias for the next layer."""
    read = encoder_hidden_states if key_value_states is None else key_value_states
    own = attention.pair(hidden_states if read is None else read)
    if past_key_values is None:
        bias = attention.bias(position_bias, own[0].shape[2], None)
        return attention.attend(hidden_states, own, bias=bias), bias
    if read is not None:
        return attention.attend(hidden_states, *past_key_values.crossed(attention.layer, own)), None
    key, value = past_key_values.joined(attention.layer, own)
    bias = attention.bias(position_bias, key.shape[2], cache_position)
    return attention.attend(hidden_states, (key, value), mask=past_key_values.seen, bias=bias), bias


def first_run(read: Mapping[str, Array], ids: Sequence[int], names: Names, attention: Attention) -> dict[str, Array]:
    """Make the inputs of a first run, in the converter's order.

    Args:
        read: of the encoder.
        ids: of the decoder's first tokens.
        names: of keys and values.
        attention: the decoder's, of any layer.
    """
    empty = np.zeros((1, attention.heads, 0, attention.size), np.float32)
    counted = {DECODER_IDS: np.array([ids]), POSITIONS: np.arange(len(ids))[np.newaxis]}
    return {**read, **counted, **dict.fromkeys((*names.past, *names.cross), empty)}


def _specs(tensors: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Make specs of tensors of any length; logits are those of one token."""
    return tuple(
        TensorSpec(
            name=name,
            dtype=DTYPES[array.dtype.name],
            shape=tuple(
                -1 if name != LOGITS and axis == _FREE_AXES[array.ndim] else length
                for axis, length in enumerate(array.shape)
            ),
        )
        for name, array in tensors.items()
    )
