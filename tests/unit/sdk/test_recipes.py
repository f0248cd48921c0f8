"""Which recipes are tried, in which order."""

from __future__ import annotations

import pytest

from edgeml import targets
from edgeml.quantize.recipes import UNCALIBRATED, Plan, plan
from edgeml_core.errors import UsageError

RPI4 = targets.load("rpi4")
GATEWAY = targets.load("x86-gateway")


def test_an_encoder_is_tried_dynamic_first():
    """The profile's order is the order of trial."""
    assert plan(RPI4, "onnx", "encoder", quantize="auto", calibrated=False) == Plan(
        recipes=("dynamic-s8", "weight-only")
    )


def test_a_cnn_without_calibration_is_not_tried_static():
    """Nothing is calibrated on made-up data, and the card will say so."""
    found = plan(RPI4, "tflite", "cnn", quantize="auto", calibrated=False)
    assert found == Plan(recipes=("weight-only",), notes=(UNCALIBRATED,))


def test_a_cnn_with_calibration_is_tried_static():
    """With data, static int8 comes first."""
    assert plan(GATEWAY, "onnx", "cnn", quantize="auto", calibrated=True).recipes[0] == "static-s8-reduced"


def test_a_family_asked_for_is_tried_as_the_target_does_it():
    """Static for an encoder takes the target's own static recipe, though its order for encoders has none."""
    found = plan(GATEWAY, "onnx", "encoder", quantize="static", calibrated=True)
    assert found.recipes == ("static-s8-reduced",)
    assert plan(GATEWAY, "onnx", "encoder", quantize="none", calibrated=False).recipes == ("none",)


def test_static_without_data_is_a_usage_error():
    """Asking for the impossible is answered before any work."""
    with pytest.raises(UsageError, match="calibration data"):
        plan(RPI4, "onnx", "cnn", quantize="static", calibrated=False)
