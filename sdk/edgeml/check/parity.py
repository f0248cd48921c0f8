"""Parity: the distance of a model's answers from the original's, over real inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from edgeml.check.predictions import vector
from edgeml_core.card import Parity
from edgeml_core.errors import GateFailed
from edgeml_core.manifest import Manifest
from edgeml_core.processing import Embedding
from edgeml_runtime.tasks import Answer
from edgeml_runtime.verify.golden import cosine

#: Cosine; below it a model is another one, not a worse version of the original.
COSINE_MIN: Final = 0.95
#: Digits of figures on the card; more would differ between runs.
_COSINE_DECIMALS: Final = 6
_DIGITS: Final = 4


def compare(found: Sequence[Answer], original: Sequence[Answer], manifest: Manifest, *, against: str) -> Parity:
    """Compare two models' answers to the same items.

    Args:
        found: the candidate's answers.
        original: the original's answers.
        manifest: the candidate's.
        against: the original's name, for the card.

    Returns:
        `cosine` is the lowest of any single embedding. The direction of scores and tensors means nothing for a single
        item, so their `cosine` is that of all answers concatenated. `max_abs` is the largest distance of any number.
    """
    pairs = [(vector(one, manifest), vector(other, manifest)) for one, other in zip(found, original, strict=True)]
    if not isinstance(manifest.postprocess, Embedding):
        pairs = [(np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs]))]
    return Parity(
        against=against,
        rows=len(found),
        max_abs=float(f"{max(float(np.abs(one - other).max(initial=0)) for one, other in pairs):.{_DIGITS}g}"),
        cosine=round(min(cosine(one, other) for one, other in pairs), _COSINE_DECIMALS),
    )


def check_parity(parity: Parity) -> None:
    """Check that the model answers like the original.

    Raises:
        GateFailed: `gate-failed`.
    """
    if not parity.cosine >= COSINE_MIN:
        raise GateFailed(
            "gate-failed",
            f"cosine {parity.cosine:.4f} to {parity.against} is below {COSINE_MIN}",
            "calibrate on more rows, train adapters against the loss, take another target, or ship fp32 with "
            "--quantize none",
        )
