"""A tiny bundle, made and unpacked, for as long as a test runs."""

from contextlib import ExitStack

import pytest

from edgeml_runtime.unpack import unpacked
from support.tiny_models import tiny_onnx_bundle


@pytest.fixture
def unpack(tmp_path):
    """A function that makes a bundle (`make(path, **options)`) and unpacks it."""
    with ExitStack() as stack:

        def run(make=tiny_onnx_bundle, **options):
            make(tmp_path / "a.edgeml", **options)
            return stack.enter_context(unpacked(tmp_path / "a.edgeml"))

        yield run
