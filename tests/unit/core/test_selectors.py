"""Selectors: what they match, how they are written, what they refuse."""

import pytest

from edgeml_core import selectors
from edgeml_core.errors import UsageError

FARM = {"site": "farm-7", "board": "rpi5", "canary": "yes"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("site=farm-7", True),
        ("site=farm-8", False),
        ("site = farm-7 , board!=rpi4", True),
        ("board!=rpi5", False),
        ("region!=north", True),
        ("site in (farm-7, farm-8)", True),
        ("site in (farm-9)", False),
        ("site not in (farm-7,farm-8)", False),
        ("region not in (north)", True),
        ("canary", True),
        ("!canary", False),
        ("!old,canary", True),
        ("site=farm-8 or canary", True),
        ("site=farm-8 or board=rpi4,canary", False),
        ("device=barn-1", True),
        ("device in (barn-2,barn-3)", False),
        ("device!=barn-1", False),
    ],
)
def test_a_selector_matches_by_labels_and_the_devices_id(text, expected):
    """Comma is and, ` or ` is or; a label that a device lacks is unlike every value."""
    assert selectors.matches(text, "barn-1", FARM) is expected


def test_a_device_cannot_label_itself_as_another():
    """Its id counts, whatever its labels say."""
    assert not selectors.matches("device=barn-2", "barn-1", {"device": "barn-2"})


@pytest.mark.parametrize(
    "text",
    ["site=", "=a", ",", "site=a,", "site==a", "site=a b", "Site=a", "site in", "site in ()", "site in (a", "a or",
     "site=(a)", "!", "!!a", "!site=a", "a=b=c", "site in (a or b)", "a=../x", "a=" + "x" * 64],
)  # fmt: skip
def test_malformed_selectors_are_refused_with_an_example(text):
    """The message has the term, the hint the grammar."""
    with pytest.raises(UsageError) as caught:
        selectors.parse(text)
    assert caught.value.code == "usage"
    assert "site=farm-7" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["a=" + "x" * 1023, ",".join(f"k{n}" for n in range(65)), " or ".join(f"k{n}" for n in range(65))]
)
def test_a_selector_is_bounded_in_characters_and_terms(text):
    """So are two that must both hold, and a list of devices."""
    with pytest.raises(UsageError, match="limit"):
        selectors.parse(text)
    half = " or ".join(f"k{n}" for n in range(9))
    with pytest.raises(UsageError, match="terms"):
        selectors.parse_all([half, half.replace("k", "j")])
    with pytest.raises(UsageError, match="characters"):
        selectors.of_devices(*(f"a-device-with-a-long-name-{n}" for n in range(64)))


def test_several_selectors_must_all_hold():
    """Repeated options narrow each other, and `--device` narrows them, too."""
    both = selectors.parse_all(["site=a or site=b", "!old"], devices=["two", "one", "one"])
    assert str(both) == "device in (one,two),!old,site=a or device in (one,two),!old,site=b"
    assert str(selectors.parse_all([])) == selectors.EVERYONE
