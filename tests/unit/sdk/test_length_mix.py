"""The inputs that candidates are compared on: lengths of the operator's rows, else the stated mix."""

from dataclasses import replace

import msgspec
import pytest

from edgeml.check.candidate import Candidate
from edgeml.check.checks import Checks
from edgeml.check.data import Row, Rows
from edgeml.check.inputs import Inputs
from edgeml.check.length_mix import MIX, samples
from edgeml.exporters.source import Built, Signature
from edgeml_runtime.tasks import Text
from edgeml_runtime.unpack import unpacked
from support.tiny_models import tiny_text_bundle

LENGTH = 128


class FakeSource:
    """As much of a source as the mix reads."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature


@pytest.fixture
def candidates(tmp_path):
    """Two candidates of one text model: one takes any length, the other three fixed ones."""
    tiny_text_bundle(tmp_path / "text.edgeml")
    with unpacked(tmp_path / "text.edgeml") as opened:
        manifest = opened.manifest
        found = []
        for pad_to in ((), (32, 64, LENGTH)):
            text = msgspec.structs.replace(manifest.preprocess, max_length=LENGTH, pad_to=pad_to)
            one = msgspec.structs.replace(manifest, preprocess=text)
            signature = Signature(inputs=one.inputs, outputs=one.outputs, preprocess=text, postprocess=one.postprocess)
            built = Built(
                file_format="onnx", recipe="none", folder=opened.folder, model=manifest.model, signature=signature
            )
            found.append(Candidate(model=built, fp32=built, profile=None, manifest=one))
        yield found


def mix(candidates, evaluation=(), calibration=(), inputs=()):
    """The weight of each sample with the lengths that both candidates run."""
    rows = [Rows(rows=tuple(Row(item=Text(text)) for text in texts)) for texts in (evaluation, calibration)]
    checks = Checks(
        source=FakeSource(candidates[0].model.signature),
        inputs=Inputs(items=tuple(map(Text, inputs))),
        evaluation=rows[0],
        calibration=rows[1],
        max_drop=0.0,
    )
    found = samples(checks, candidates)
    return [(round(it.weight, 3), *(one["input_ids"].shape[1] for one in it.tensors)) for it in found]


def words(count):
    """A text of so many tokens with both marks."""
    return " ".join(["good"] * (count - 2))


def test_samples_without_rows_are_of_the_stated_mix(candidates):
    """Short, middle and full length; a fixed length is padded to, as in service."""
    short, middle, full = (weight for _, weight in MIX)
    assert mix(candidates) == [(short, 16, 32), (middle, 32, 32), (full, LENGTH, LENGTH)]


def test_samples_without_rows_end_at_the_length_that_all_candidates_take(candidates):
    """A candidate that cuts gets no advantage from doing less."""
    text = msgspec.structs.replace(candidates[0].manifest.preprocess, max_length=64)
    shorter = replace(candidates[0], manifest=msgspec.structs.replace(candidates[0].manifest, preprocess=text))
    assert mix([shorter, candidates[1]])[-1] == (MIX[-1][1], 64, 64)


def test_samples_of_rows_are_at_their_quantiles(candidates):
    """Ten lengths in any order give five samples of equal weight; calibration rows count where no others are given."""
    texts = [words(10 * number) for number in (3, 1, 10, 5, 7, 2, 9, 4, 8, 6)]
    expected = [(0.2, 20, 32), (0.2, 40, 64), (0.2, 60, 64), (0.2, 80, 128), (0.2, 100, 128)]
    assert mix(candidates, evaluation=texts) == expected
    assert mix(candidates, calibration=texts) == expected
    assert mix(candidates, evaluation=texts, calibration=[words(5)]) == expected


def test_samples_of_one_shape_are_merged(candidates):
    """Rows of one length take one time; their shares add up."""
    assert mix(candidates, evaluation=[words(8)] * 7) == [(1.0, 8, 32)]
