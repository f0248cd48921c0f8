"""The fleet document: each device finds its own part in it."""

import msgspec
import pytest

from edgeml_core import desired
from edgeml_core.errors import RejectedError

X86 = desired.Wanted(target="x86-gateway", format="onnx", arch="x86_64", cpu_features=("avx2",), manifest_sha256="1")
VNNI = desired.Wanted(
    target="x86-vnni", format="onnx", arch="x86_64", cpu_features=("avx2", "avx512_vnni"), manifest_sha256="2"
)
PI = desired.Wanted(target="rpi4", format="onnx", arch="aarch64", cpu_features=("asimd",), manifest_sha256="3")
LITE = desired.Wanted(target="rpi4", format="tflite", arch="aarch64", cpu_features=("asimd",), manifest_sha256="4")


def a_deployment(**changes):
    """A deployment of one model to everyone, with `changes`."""
    values = {"id": "d1", "name": "m", "version": "1", "selector": "", "percent": 100.0, "bundles": (X86, VNNI, PI)}
    return desired.Deployment(**values | changes)


NORTH, SOUTH = {"site": "north"}, {"site": "south"}


def a_document(*deployments):
    """A document with these deployments."""
    return desired.FleetDocument(fleet="edge", deployments=deployments)


def test_a_document_survives_its_encoding():
    """What is decoded is what was encoded."""
    document = a_document(a_deployment())
    assert desired.decode(desired.encode(document)) == document


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"x" * (desired.FLEET_DOCUMENT_MAX_BYTES + 1),
        desired.encode(a_document(a_deployment(name="../x"))),
        desired.encode(a_document(a_deployment(selector="site="))),
    ],
    ids=["empty", "no-fields", "too-long", "bad-name", "bad-selector"],
)
def test_bad_documents_are_refused(data):
    """Too long, malformed or naming nonsense."""
    with pytest.raises(RejectedError) as caught:
        desired.decode(data)
    assert caught.value.code == "document-format"


def test_labels_select():
    """A selector's pairs must all be the device's signed labels."""
    document = a_document(a_deployment(selector="site=north"))
    assert set(desired.wanted_by(document, "a", NORTH)) == {"m"}
    assert desired.wanted_by(document, "b", SOUTH) == {}


def test_the_last_deployment_that_includes_a_device_holds():
    """A later, narrower deployment overrides for those it matches."""
    document = a_document(a_deployment(), a_deployment(id="d2", version="2", selector="site=north"))
    assert desired.wanted_by(document, "a", NORTH)["m"].version == "2"
    assert desired.wanted_by(document, "b", SOUTH)["m"].version == "1"


def test_bundles_of_a_site_are_those_of_its_devices_once():
    """By the labels of each; a target label leaves out other boards' bundles."""
    document = a_document(a_deployment(bundles=(X86, PI)), a_deployment(id="d2", name="n", selector="site=south"))
    devices = {"a": NORTH | {"target": "rpi4"}, "c": NORTH | {"target": "rpi4"}}
    assert [bundle.target for _, bundle in desired.bundles_at(document, devices)] == ["rpi4"]
    found = [
        (it.name, bundle.target) for it, bundle in desired.bundles_at(document, {"b": SOUTH | {"target": "x86-vnni"}})
    ]
    assert found == [("n", "x86-vnni")]


def test_pinned_deployments_hold_against_later_ones():
    """Among several pins the last one holds."""
    pins = (a_deployment(id=f"p{n}", version=f"{n}", selector="device=a", pinned=True) for n in (3, 4))
    document = a_document(*pins, a_deployment(version="9"))
    assert desired.wanted_by(document, "a", NORTH)["m"].version == "4"
    assert desired.wanted_by(document, "b", SOUTH)["m"].version == "9"


def test_a_removal_has_neither_version_nor_bundles():
    """A version without bundles is an old mistake of a host; bundles without a version are refused."""
    removal = a_deployment(version="", bundles=())
    assert desired.decode(desired.encode(a_document(removal))).deployments[0].removes
    with pytest.raises(RejectedError):
        desired.decode(desired.encode(a_document(a_deployment(version=""))))


def test_a_larger_percentage_includes_all_of_a_smaller_one():
    """Widening a wave never takes a device out of it."""
    ids = [f"device-{i}" for i in range(2000)]
    reached = [
        {name for name in ids if desired.includes(a_deployment(percent=percent), name, {})}
        for percent in (0.0, 5.0, 25.0, 100.0)
    ]
    assert reached[0] == set()
    assert reached[0] < reached[1] < reached[2] < reached[3] == set(ids)
    assert len(reached[1]) == pytest.approx(100, abs=40)


def test_a_share_includes_its_exact_number_of_places():
    """0.07 % are the first seven of 10,000 places: products of floats must not add an eighth."""
    counts = {0.07: 7, 0.29: 29, 4.37: 437, 55.55: 5555}
    ids = [f"device-{i}" for i in range(20_000)]
    for percent, reached in counts.items():
        deployment = a_deployment(percent=percent)
        included = {desired.place(deployment, name) for name in ids if desired.includes(deployment, name, {})}
        assert max(included, default=0) < reached
        assert not any(desired.includes(deployment, it, {}) for it in ids if desired.place(deployment, it) >= reached)


def test_the_next_attempt_is_for_the_same_devices():
    """Those of the first one, whatever the share."""
    first = a_deployment(percent=25.0)
    second = msgspec.structs.replace(first, id=desired.next_attempt(first.id))
    assert second.id != first.id
    for name in (f"device-{i}" for i in range(200)):
        assert desired.includes(first, name, {}) == desired.includes(second, name, {})


def choose(*, arch="x86_64", features=("avx2",), formats=("onnx",), target="", bundles=(X86, VNNI, PI, LITE)):
    """The target of the bundle chosen by a device like that."""
    found = desired.choose_bundle(
        a_deployment(bundles=bundles),
        arch=arch,
        cpu_features=frozenset(features),
        formats=frozenset(formats),
        target=target,
    )
    return f"{found.target}/{found.format}"


def test_a_device_takes_the_bundle_made_for_the_closest_cpu():
    """The most features that the CPU has win; a bundle that asks for more never does."""
    assert choose() == "x86-gateway/onnx"
    assert choose(features=("avx2", "avx512_vnni", "fma")) == "x86-vnni/onnx"
    assert choose(arch="aarch64", features=("asimd",), formats=("tflite",)) == "rpi4/tflite"


def test_the_targets_label_holds_a_device_to_its_board():
    """An operator's word is stronger than the CPU's."""
    assert choose(features=("avx2", "avx512_vnni"), target="x86-gateway") == "x86-gateway/onnx"


@pytest.mark.parametrize(
    "changes", [{"arch": "riscv64"}, {"features": ()}, {"formats": ()}, {"target": "rpi5"}, {"bundles": ()}]
)
def test_no_suitable_bundle_is_refused_with_what_was_offered(changes):
    """The message says what there is, the hint what to do."""
    with pytest.raises(RejectedError) as caught:
        choose(**changes)
    assert caught.value.code == "release-unsuitable"
