"""Recording and checking golden cases with a real model."""

import msgspec
import numpy as np
import pytest

from edgeml_core import golden as files
from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.golden import GoldenCase
from edgeml_runtime import engines
from edgeml_runtime.model import Model
from edgeml_runtime.tensors import from_data, to_data
from edgeml_runtime.verify import golden
from support.task_models import NAMES, writer


@pytest.fixture
def opened(unpack):
    """The session, manifest and golden cases of a whole tiny bundle."""
    return _open(unpack())


def _open(bundle):
    cases = files.decode((bundle.folder / bundle.manifest.golden.path).read_bytes())
    return engines.load(bundle.folder / bundle.manifest.model, bundle.manifest), bundle.manifest, cases


def test_check_recorded_outputs_pass(opened):
    """What the model really answers is reproduced exactly, and takes some time."""
    result = golden.check(*opened)
    assert result.min_cosine == pytest.approx(1.0)
    assert result.max_abs == 0.0
    assert result.first_ms > 0
    assert result.median_ms > 0


def test_check_wrong_outputs_are_a_mismatch(unpack):
    """A bundle whose golden outputs are not its model's is refused with the distance."""
    with pytest.raises(DeviceError, match="largest distance 8") as caught:
        golden.check(*_open(unpack(fault="wrong golden")))
    assert caught.value.code == "golden-mismatch"


def test_record_cases_survive_their_file(opened):
    """What `record` saw, written to a golden file and read again, checks."""
    session, manifest, _ = opened
    inputs = [{"x": np.full((rows, 4), 0.5, np.float32)} for rows in (1, 2, 3)]
    cases = files.decode(files.encode(golden.record(session, inputs)))
    assert golden.check(session, manifest, cases).max_abs == 0.0


@pytest.mark.parametrize(
    "expected",
    [
        np.zeros((2, 5), np.float32),
        np.zeros((2, 4), np.float16),
        np.full((2, 4), np.nan, np.float32),
        np.full((2, 4), np.inf, np.float32),
        np.zeros((2, 4), np.float32),
    ],
    ids=["shape", "dtype", "nan", "inf", "zero"],
)
def test_check_outputs_that_cannot_be_compared_are_a_mismatch(opened, expected):
    """Another shape, another type, NaN and infinity are never within bounds."""
    session, manifest, (case,) = opened
    with pytest.raises(DeviceError) as caught:
        golden.check(session, manifest, [msgspec.structs.replace(case, outputs={"y": to_data(expected)})])
    assert caught.value.code == "golden-mismatch"


def test_check_output_that_the_model_lacks_is_a_mismatch(opened):
    """A golden output that the model doesn't give is a mismatch."""
    session, manifest, (case,) = opened
    more = case.outputs | {"z": case.outputs["y"]}
    with pytest.raises(DeviceError, match="'z'"):
        golden.check(session, manifest, [GoldenCase(inputs=case.inputs, outputs=more)])


def test_check_case_without_an_output_is_rejected(opened):
    """A case that would let an output go unchecked is a malformed bundle."""
    session, manifest, (case,) = opened
    with pytest.raises(RejectedError, match="no output y"):
        golden.check(session, manifest, [GoldenCase(inputs=case.inputs, outputs={})])


@pytest.mark.parametrize(("min_cosine", "max_abs", "passes"), [(0.9, 8.5, True), (0.99, 8.5, False), (0.9, 7, False)])
def test_check_both_bounds_hold(unpack, min_cosine, max_abs, passes):
    """The manifest's cosine and distance must both be met; here they are 0.971 and 8."""
    session, manifest, cases = _open(unpack(fault="wrong golden"))
    bounds = msgspec.structs.replace(manifest.golden, min_cosine=min_cosine, max_abs=max_abs)
    manifest = msgspec.structs.replace(manifest, golden=bounds)
    if passes:
        assert golden.check(session, manifest, cases).max_abs == 8.0
    else:
        with pytest.raises(DeviceError):
            golden.check(session, manifest, cases)


def test_cosine_of_zero_vectors():
    """Two zero vectors agree; a zero vector agrees with no other."""
    zeros, ones = np.zeros(3), np.ones(3)
    assert golden.cosine(zeros, zeros) == 1.0
    assert golden.cosine(zeros, ones) == 0.0


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "int8", "uint8", "bool"])
def test_to_data_keeps_every_dtype(dtype):
    """An array of each data type comes back from its golden bytes as it was."""
    array = np.array([[0, 1], [1, 0], [1, 1]], dtype=dtype)[::2]
    back = from_data(to_data(array))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


@pytest.mark.parametrize("dtype", ["float64", "uint64", "str", "object"])
def test_to_data_other_dtypes_are_unsupported(dtype):
    """A data type that a bundle can't hold is refused when it is recorded, not when the bundle is read."""
    with pytest.raises(UsageError) as caught:
        to_data(np.zeros(2, dtype=dtype))
    assert caught.value.code == "model-unsupported"


@pytest.fixture
def language(unpack):
    """A tiny language model, opened, and a case of it."""
    bundle = unpack(lambda path: writer(path, (NAMES["text-generation"], "1.0", "x86-vnni")))
    model = Model.open(bundle.folder, bundle.manifest)
    tensors = model.prepare(model.parse({"prompt": "check the valve"})).tensors
    return model, golden.record(model.session, [tensors])


def test_with_tokens_of_a_language_model_are_reproduced(language):
    """Those that the model writes by itself; the file keeps them."""
    model, cases = language
    (case,) = golden.with_tokens(model.session, model.manifest, cases, max_abs=0.0)
    assert 1 <= len(case.tokens) <= golden.TOKENS_MAX
    (kept,) = files.decode(files.encode((case,)))
    assert kept == case
    golden.check_tokens(model.session, model.manifest, [case])


def test_with_tokens_that_the_bounds_could_change_records_none(language):
    """A lead of twice the bound is needed."""
    model, cases = language
    (case,) = golden.with_tokens(model.session, model.manifest, cases, max_abs=1e6)
    assert not case.tokens


def test_check_of_another_token_is_a_golden_mismatch(language):
    """The error has the case, the place and both tokens."""
    model, cases = language
    (case,) = golden.with_tokens(model.session, model.manifest, cases, max_abs=0.0)
    other = msgspec.structs.replace(case, tokens=(case.tokens[0] + 1, *case.tokens[1:]))
    message = f"case 0 writes token {case.tokens[0]} at place 1, where the bundle recorded {case.tokens[0] + 1}"
    with pytest.raises(DeviceError, match=message) as caught:
        golden.check(model.session, model.manifest, [other])
    assert caught.value.code == "golden-mismatch"


def test_check_of_tokens_of_a_model_that_writes_none_is_bundle_format(unpack):
    """The manifest and the golden file don't fit each other."""
    session, manifest, (case, *_) = _open(unpack())
    with pytest.raises(RejectedError, match="case 0 has tokens") as caught:
        golden.check(session, manifest, [msgspec.structs.replace(case, tokens=(1,))])
    assert caught.value.code == "bundle-format"
