"""Which recipes are tried, in which order."""

from __future__ import annotations

import pytest

from edgeml import targets
from edgeml.quantize.recipes import plan, require_calibration
from edgeml_core.errors import UsageError

RPI4 = targets.load("rpi4")
GATEWAY = targets.load("x86-gateway")


def test_an_encoder_is_tried_dynamic_first():
    """The profile's order is the order of trial; what is fp32 in speed comes last."""
    found = plan(RPI4, "onnx", "encoder", quantize="auto")
    assert found == RPI4.engines["onnxruntime"].recipes["encoder"]
    assert (found[0], found[-1]) == ("dynamic-s8", "weight-only-fp16")


def test_a_cnn_is_tried_static_first_and_never_dynamic():
    """Dynamic int8 makes convolutions slower."""
    for target in targets.all():
        found = plan(target, "onnx", "cnn", quantize="auto")
        assert found[0].startswith("static-s8")
        assert not any(recipe.startswith("dynamic") for recipe in found)


def test_block_weights_are_only_for_cpus_that_gain():
    """MatMulNBits has no int8 compute without dotprod or VNNI."""
    having = {
        target.name
        for target in targets.all()
        if any(recipe.endswith("bit") for recipe in plan(target, "onnx", "encoder", quantize="auto"))
    }
    assert having == {"rpi5", "x86-vnni"}


def test_a_family_asked_for_is_tried_as_the_target_does_it():
    """Dynamic for a CNN takes the target's own dynamic recipes, though its order for CNNs has none."""
    assert plan(GATEWAY, "onnx", "cnn", quantize="dynamic")[0] == "dynamic-s8-reduced"
    assert plan(GATEWAY, "onnx", "encoder", quantize="none") == ("none",)


def test_a_recipe_asked_for_is_the_only_one():
    """Even one that the profile doesn't name; the other engine's is refused with those that there are."""
    assert plan(GATEWAY, "onnx", "encoder", quantize="auto", recipe="dynamic-s8") == ("dynamic-s8",)
    with pytest.raises(UsageError) as caught:
        plan(GATEWAY, "tflite", "encoder", quantize="auto", recipe="dynamic-s8")
    assert "weight-only" in caught.value.hint


@pytest.mark.parametrize("wanted", ["static", "static-s8-entropy"])
def test_static_without_data_is_a_usage_error(wanted: str):
    """Asking for the impossible is answered before any work."""
    with pytest.raises(UsageError, match="calibration data"):
        require_calibration(wanted)
