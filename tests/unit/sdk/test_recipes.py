"""Which recipes are tried, in which order."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from edgeml import targets
from edgeml.quantize.recipes import TABLE, Recipe, check_calibration, plan
from edgeml_core.errors import UsageError
from edgeml_core.profile import RecipeName

#: The table's properties spelled out by hand, for names that differ in one property from a neighbour.
PROPERTIES = {
    "dynamic-u8": Recipe(family="dynamic", signed=False),
    "dynamic-s8-reduced-mixed": Recipe(family="dynamic", reduced=True, mixed=True),
    "static-s8-reduced-percentile": Recipe(family="static", reduced=True, method="percentile"),
    "static-s8-mixed": Recipe(family="static", mixed=True),
    "weight-only-4bit": Recipe(family="weight-only", bits=4, blocks=True),
    "weight-only-fp16": Recipe(family="weight-only", bits=16),
    "none": Recipe(family="none", bits=32),
}
RPI4 = targets.load("rpi4")
GATEWAY = targets.load("x86-gateway")


def test_table_has_every_recipe_that_a_profile_may_name():
    """A name without an entry would fail in the middle of an export."""
    assert set(TABLE) == set(get_args(RecipeName))


@pytest.mark.parametrize(("name", "recipe"), PROPERTIES.items(), ids=PROPERTIES)
def test_table_entry_has_the_properties_of_its_name(name: str, recipe: Recipe):
    """Names are for people; code reads the table."""
    assert TABLE[name] == recipe


def test_table_is_read_only():
    """One module's mistake can't change another's recipes."""
    with pytest.raises(TypeError):
        TABLE["none"] = TABLE["static"]
    with pytest.raises(AttributeError):
        TABLE["none"].bits = 8


def test_runs_as_float_weight_only_recipes_without_blocks():
    """Stored in fewer bits, held in float: the estimate of memory counts them as fp32."""
    floats = {name for name, recipe in TABLE.items() if recipe.runs_as_float}
    assert floats == {"none", "weight-only", "weight-only-fp16"}


def test_plan_encoder_starts_with_dynamic():
    """Candidates follow the profile's order; recipes with the speed of fp32 come last."""
    found = plan(RPI4, "onnx", "encoder", quantize="auto")
    assert found == RPI4.engines["onnxruntime"].recipes["encoder"]
    assert (found[0], found[-1]) == ("dynamic-s8", "weight-only-fp16")


def test_plan_cnn_starts_with_static_and_never_has_dynamic():
    """Dynamic int8 makes convolutions slower."""
    for target in targets.all():
        found = plan(target, "onnx", "cnn", quantize="auto")
        assert TABLE[found[0]].family == "static"
        assert not any(TABLE[name].family == "dynamic" for name in found)


def test_plan_decoder_that_prefers_prefill_starts_with_dynamic():
    """All other recipes follow in their order; `decode` is the profile's own order."""
    vnni = targets.load("x86-vnni")
    own = plan(vnni, "onnx", "decoder", quantize="auto")
    assert plan(vnni, "onnx", "decoder", quantize="auto", prefer="decode") == own
    assert own[:2] == ("weight-only-4bit", "dynamic-s8")
    assert plan(vnni, "onnx", "decoder", quantize="auto", prefer="prefill") == (own[1], own[0], *own[2:])


def test_plan_prefer_is_refused_for_models_that_write_nothing():
    """The error names the option and its value."""
    with pytest.raises(UsageError, match="--prefer prefill is for language models"):
        plan(RPI4, "onnx", "encoder", quantize="auto", prefer="prefill")


def test_plan_block_weights_only_on_cpus_that_gain():
    """MatMulNBits has no int8 compute without dotprod or VNNI."""
    having = {
        target.name
        for target in targets.all()
        if any(TABLE[name].blocks for name in plan(target, "onnx", "encoder", quantize="auto"))
    }
    assert having == {"rpi5", "x86-vnni"}


def test_plan_decoder_starts_with_four_bits_where_the_cpu_has_dot_products():
    """Elsewhere with dynamic int8, and never with blocks of 8 bits, which have no kernel there."""
    first = {it.name: plan(it, "onnx", "decoder", quantize="auto")[0] for it in targets.all()}
    assert {name for name, recipe in first.items() if recipe == "weight-only-4bit"} == {
        "rpi5",
        "x86-gateway",
        "x86-vnni",
    }
    assert first["rpi4"] == first["rpi-zero2w"] == "dynamic-s8"
    assert "weight-only-8bit" not in plan(RPI4, "onnx", "decoder", quantize="auto")


def test_plan_decoder_of_a_target_without_such_a_list_takes_the_encoders():
    """Operators have targets of their own, older than the list."""
    setup = RPI4.engines["onnxruntime"]
    older = msgspec.structs.replace(setup, recipes={it: setup.recipes[it] for it in ("encoder", "cnn")})
    target = msgspec.structs.replace(RPI4, engines={"onnxruntime": older})
    assert plan(target, "onnx", "decoder", quantize="auto") == plan(RPI4, "onnx", "encoder", quantize="auto")


def test_plan_family_requested_takes_the_targets_recipes():
    """Dynamic for a CNN takes the target's own dynamic recipes, though its order for CNNs has none."""
    assert plan(GATEWAY, "onnx", "cnn", quantize="dynamic")[0] == "dynamic-s8-reduced"
    assert plan(GATEWAY, "onnx", "encoder", quantize="none") == ("none",)


def test_plan_recipe_requested_is_the_only_one():
    """Even one that the profile doesn't name; the other engine's is refused with those that there are."""
    assert plan(GATEWAY, "onnx", "encoder", quantize="auto", only="dynamic-s8") == ("dynamic-s8",)
    with pytest.raises(UsageError) as caught:
        plan(GATEWAY, "tflite", "encoder", quantize="auto", only="dynamic-s8")
    assert "weight-only" in caught.value.hint


@pytest.mark.parametrize("wanted", ["static", "static-s8-entropy"])
def test_check_calibration_static_without_data_raises(wanted: str):
    """Asking for the impossible is answered before any work."""
    with pytest.raises(UsageError, match="calibration data"):
        check_calibration(wanted)
