"""Modules of transformers that the graph of a language model has as one operator each."""

from __future__ import annotations

from typing import Any, Final

import torch
import transformers

#: Rows of the example that a norm is compared on, and how far its numbers may lie from transformers'.
_ROWS: Final = 2
_TOLERANCE: Final = 1e-5


def simpler(part: Any) -> torch.nn.Module | None:  # noqa: ANN401 -- transformers has no types here
    """Return the module that takes the place of this one in the graph; None where it stays."""
    if isinstance(part, transformers.pytorch_utils.Conv1D):
        return _Product(part.weight, part.bias)
    if type(part) is torch.nn.Linear:
        return _Product(part.weight.t(), part.bias)
    return _norm(part) if "RMSNorm" in type(part).__name__ else None


class _Product(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A matrix product with constant weights, which all quantizers take."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = _constant(weight), None if bias is None else _constant(bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        product = torch.matmul(rows, self.weight)
        return product if self.bias is None else product + self.bias


class _Norm(torch.nn.Module):  # type: ignore[misc] # torch is not followed
    """A root mean square norm as one operator."""

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self._epsilon = _constant(weight), epsilon

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        attributes = {"axis": -1, "epsilon": self._epsilon}
        return torch.onnx.ops.symbolic(
            "RMSNormalization", (rows, self.weight), attributes, dtype=rows.dtype, shape=rows.shape
        )


def _constant(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.detach(), requires_grad=False)


def _norm(part: Any) -> _Norm | None:  # noqa: ANN401 -- as above
    """Find the scale with which the operator computes as this norm; some architectures add one to the weights."""
    epsilon = getattr(part, "variance_epsilon", getattr(part, "eps", None))
    weight = getattr(part, "weight", None)
    if weight is None or epsilon is None:
        return None
    with torch.inference_mode():
        rows = torch.randn(_ROWS, *weight.shape, generator=torch.Generator().manual_seed(0))
        expected = part(rows)
        for scale in (weight.detach(), 1 + weight.detach()):
            found = torch.nn.functional.rms_norm(rows, weight.shape, scale, epsilon)
            if torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
                return _Norm(scale, float(epsilon))
    return None
