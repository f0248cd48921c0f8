"""Which rows make the baseline: the evaluation's, else some of the calibration's; of what writes texts, none."""

import pytest

from edgeml.check.checks import Checks
from edgeml.check.data import Row, Rows
from edgeml.check.inputs import ROWS_TAKEN_MAX
from edgeml_core.drift import ROWS_MIN
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import ScoredText, Text
from edgeml_runtime.unpack import unpacked
from support import task_models

FEW, SOME, MANY = ROWS_MIN - 1, ROWS_MIN, 2 * ROWS_TAKEN_MAX


@pytest.mark.parametrize(
    ("evaluated", "calibrated", "found"),
    [
        (SOME, MANY, (SOME, "evaluation")),
        (MANY, 0, (MANY, "evaluation")),
        (0, MANY, (ROWS_TAKEN_MAX, "calibration")),
        (FEW, MANY, None),
        (0, FEW, None),
        (0, 0, None),
    ],
)
def test_baseline_rows_are_those_of_the_checks(tmp_path, evaluated, calibrated, found):
    """Each of them once, by the answers of the model itself."""
    answers, baseline = judged(tmp_path, "text-classification", Text("it works well"), evaluated, calibrated)
    assert len(answers) == evaluated
    assert (baseline and (baseline.rows, baseline.rows_from)) == found
    if baseline:
        label = baseline.quantities["label"]
        assert (label.labels, label.counts) == (("positive",), (baseline.rows, 0))


def test_baseline_of_a_language_model_is_none(tmp_path):
    """Whole texts are no prompts; nor are they asked for nothing."""
    _, baseline = judged(tmp_path, "text-generation", ScoredText("check the valve"), MANY, MANY)
    assert baseline is None


def judged(folder, task, item, evaluated, calibrated):
    """What the checks find out with so many rows of each kind."""
    task_models.bundle(folder / "a.edgeml", task)
    evaluation, calibration = (Rows(rows=(Row(item=item),) * count) for count in (evaluated, calibrated))
    checks = Checks(source=None, inputs=None, evaluation=evaluation, calibration=calibration, max_drop=0.0)
    with unpacked(folder / "a.edgeml") as bundle:
        model = Model.open(bundle.folder, bundle.manifest)
        found = checks._answers([model])
        model.close()
    return found
