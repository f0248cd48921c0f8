"""The grammar of names."""

import pytest

from edgeml_core import names
from edgeml_core.errors import UsageError


@pytest.mark.parametrize("text", ["a", "minilm", "rpi-zero2w", "a_b-c9", "x" * 63])
def test_names(text):
    """Lower case, digits, dashes and underscores inside."""
    assert names.require_name(text, "name") == text


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a/b", "a+b", "a#", "é", "a b", "x" * 64, "..", "a\n"])
def test_not_names(text):
    """What a topic, a file system or a URL would take as more than a name is refused."""
    with pytest.raises(UsageError, match="not a valid name"):
        names.require_name(text, "name")


@pytest.mark.parametrize("text", ["1", "1.2.0", "2024.11.3_abc", "1_0"])
def test_versions(text):
    """Versions have no dash, so that a bundle's file name splits in one way."""
    assert names.require_version(text) == text


@pytest.mark.parametrize("text", ["", "1-2", "-1", "1.", "1/2", "1.0+abc", "1" * 41])
def test_not_versions(text):
    """Everything else is refused."""
    with pytest.raises(UsageError, match="is not valid"):
        names.require_version(text)


def test_labels_are_parsed_from_repeated_and_comma_separated_pairs():
    """`--label a=1 --label b=2,c=3` gives three labels."""
    assert names.parse_labels(["a=1", "b=2, c=x.y-z"]) == {"a": "1", "b": "2", "c": "x.y-z"}


@pytest.mark.parametrize("pairs", [["a"], ["=1"], ["a="], ["a=1", "a=2"], ["A=1"], ["a=b c"], ["device=a"]])
def test_bad_labels(pairs):
    """A label without a key, without a value or with two values is refused."""
    with pytest.raises(UsageError):
        names.parse_labels(pairs)
