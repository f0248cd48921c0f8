"""The port to the runtimes: versions, and models that can't be loaded."""

import os
from importlib import metadata

import msgspec
import numpy as np
import pytest

from edgeml_core.errors import DeviceError, RejectedError
from edgeml_core.manifest import RuntimeNeeds
from edgeml_runtime import engines
from support.tiny_models import tiny_onnx_bundle

INSTALLED = metadata.version("onnxruntime")


def needs(**changes):
    return RuntimeNeeds(**({"engine": "onnxruntime", "min_version": "1.20", "threads": 1} | changes))


def test_installed_reads_both_versions():
    """Both runtimes of the development environment are found under their engines' names."""
    assert engines.installed() == {"onnxruntime": INSTALLED, "litert": metadata.version("ai-edge-litert")}


@pytest.mark.parametrize("floor", ["0", "1.9", "1.20.0", INSTALLED, f"{INSTALLED}.0"])
def test_require_accepts_what_is_as_new(floor):
    """Versions compare by number, not by text, and trailing zeros mean nothing."""
    engines.check_runtime(needs(min_version=floor))


@pytest.mark.parametrize("changes", [{"min_version": "99.0"}, {"bad_versions": ("1.0", f"{INSTALLED}.0")}])
def test_require_refuses_old_and_bad(changes):
    """A floor above, or a bad version equal to, what is installed is a missing runtime."""
    with pytest.raises(DeviceError) as caught:
        engines.check_runtime(needs(**changes))
    assert caught.value.code == "runtime-missing"
    assert "pip install" in caught.value.hint


def test_require_refuses_the_absent(monkeypatch):
    """An engine whose distributions are all absent is a missing runtime."""
    monkeypatch.setitem(engines.DISTRIBUTIONS, "litert", ("no-such-distribution",))
    with pytest.raises(DeviceError, match="litert is not installed"):
        engines.check_runtime(needs(engine="litert"))


def test_the_legacy_package_stands_in(monkeypatch):
    """Where the preferred distribution is absent, the next one's version counts."""
    monkeypatch.setitem(engines.DISTRIBUTIONS, "litert", ("no-such-distribution", "numpy"))
    assert engines.installed()["litert"] == metadata.version("numpy")


def test_require_refuses_malformed_versions():
    """A manifest whose floor is no version number is the sender's fault."""
    with pytest.raises(RejectedError) as caught:
        engines.check_runtime(needs(min_version="newest"))
    assert caught.value.code == "bundle-format"


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_load_refuses_options_that_are_not_listed(unpack, engine):
    """A bundle can't name files through a session option."""
    bundle = unpack()
    runtime = needs(engine=engine, options={"session.optimized_model_external_initializers_file_name": "x"})
    with pytest.raises(RejectedError, match="optimized_model_external"):
        engines.load(bundle.folder / "model.onnx", msgspec.structs.replace(bundle.manifest, runtime=runtime))


def test_load_takes_listed_options(unpack):
    """A listed option reaches a session that runs."""
    bundle = unpack()
    runtime = needs(options={"session.intra_op.allow_spinning": "0", "session.dynamic_block_base": "4"})
    session = engines.load(bundle.folder / "model.onnx", msgspec.structs.replace(bundle.manifest, runtime=runtime))
    assert session.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[3.0] * 4]


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_load_translates_a_malformed_model(tmp_path, engine):
    """Bytes that are no model are the runtime's failure, with its own words in the message."""
    manifest = tiny_onnx_bundle(tmp_path / "a.edgeml")
    manifest = msgspec.structs.replace(manifest, runtime=needs(engine=engine))
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(DeviceError) as caught:
        engines.load(tmp_path / "model.onnx", manifest)
    assert caught.value.code == "runtime-failed"
    assert caught.value.__cause__ is not None


def test_load_translates_a_missing_file(tmp_path):
    """A model file that isn't there is the runtime's failure."""
    manifest = tiny_onnx_bundle(tmp_path / "a.edgeml")
    with pytest.raises(DeviceError, match="couldn't load"):
        engines.load(tmp_path / "absent.onnx", manifest)


def test_load_finds_weights_beside_the_model(unpack):
    """External weights come from the model's own folder."""
    bundle = unpack(weights_bytes=100_000)
    engines.load(bundle.folder / bundle.manifest.model, bundle.manifest).close()
    (bundle.folder / "model.onnx.data").unlink()
    with pytest.raises(DeviceError, match=r"model\.onnx\.data"):
        engines.load(bundle.folder / bundle.manifest.model, bundle.manifest)


def test_a_session_translates_what_it_cant_run(unpack):
    """Tensors that don't fit the graph are the runtime's failure, never its own exception."""
    bundle = unpack()
    session = engines.load(bundle.folder / "model.onnx", bundle.manifest)
    with pytest.raises(DeviceError) as caught:
        session.run({"x": np.ones((1, 4), np.int64)})
    assert caught.value.code == "runtime-failed"


@pytest.mark.parametrize(("asked", "manifests"), [(None, 1), (None, 64), (1, 64), (64, 1)])
def test_threads_never_exceed_the_cores(unpack, asked, manifests):
    """The caller's number goes before the manifest's, and the cores of this process bound both."""
    bundle = unpack()
    manifest = msgspec.structs.replace(bundle.manifest, runtime=needs(threads=manifests))
    session = engines.load(bundle.folder / "model.onnx", manifest, threads=asked)
    used = session._session.get_session_options().intra_op_num_threads
    assert used == min(asked or manifests, len(os.sched_getaffinity(0)))
