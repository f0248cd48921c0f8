"""Answers to many rows: those of single requests, in order, by several copies of a model or in shared runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeml.check import predictions
from edgeml_core.errors import UsageError
from edgeml_runtime.model import BATCH_MAX, Model
from edgeml_runtime.tasks import Text
from edgeml_runtime.tensors import Array
from edgeml_runtime.unpack import unpacked
from support import task_models

ITEMS = [Text(("it works well", "bad", "the pump is quiet and bad")[at % 3]) for at in range(100)]


@pytest.fixture
def opened(tmp_path: Path):
    """A function that opens one more copy of the classifier of moods."""
    task_models.bundle(tmp_path / "a.edgeml", "text-classification")
    models = []
    with unpacked(tmp_path / "a.edgeml") as bundle:

        def one_more() -> Model:
            models.append(Model.open(bundle.folder, bundle.manifest))
            return models[-1]

        yield one_more
        for model in models:
            model.close()


class DependsOnOthers:
    """A session whose outputs are the distances from the mean of the run."""

    def __init__(self, inner: Model) -> None:
        self._inner = inner.session

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model."""
        return {name: array - array.mean(axis=0) for name, array in self._inner.run(inputs).items()}

    def close(self) -> None:
        """Nothing is held."""


def runs_of(model: Model) -> list[int]:
    """The number of items of each run from now on."""
    counted: list[int] = []
    model.observed = lambda run: counted.append(len(run.items))
    return counted


def test_predict_by_several_copies_gives_the_answers_of_single_requests(opened):
    """In the order of the items, each in a run of its own."""
    expected = [opened().predict([item])[0] for item in ITEMS[:3]]
    copies = [opened(), opened(), opened()]
    counted = [runs_of(copy) for copy in copies]
    assert predictions.predict(copies, ITEMS) == [expected[at % 3] for at in range(len(ITEMS))]
    assert sum(map(len, counted)) == len(ITEMS)
    assert {size for sizes in counted for size in sizes} == {1}


def test_predict_together_shares_runs_of_one_length_only(opened):
    """Items of three lengths: no padding changes an answer, and full runs have the runtime's number of items."""
    model = opened()
    expected = [model.predict([item])[0] for item in ITEMS[:3]]
    counted = runs_of(model)
    found = predictions.predict_together([model], ITEMS)
    for at, answer in enumerate(found):
        assert [it["label"] for it in answer["labels"]] == [it["label"] for it in expected[at % 3]["labels"]]
        assert answer["labels"][0]["score"] == pytest.approx(expected[at % 3]["labels"][0]["score"], abs=1e-6)
    assert max(counted) == BATCH_MAX


def test_predict_together_where_answers_depend_on_the_others_gives_each_a_run(opened):
    """A model that takes the mean of its run away."""
    plain = opened()
    model = Model(DependsOnOthers(plain), plain.manifest, plain.prepare)
    expected = [model.predict([item])[0] for item in ITEMS[:3]]
    assert predictions.predict_together([model], ITEMS) == [expected[at % 3] for at in range(len(ITEMS))]


def test_predict_stops_at_the_first_error(opened):
    """The error of a row reaches the caller, and the rest isn't answered."""
    model = opened()
    counted = runs_of(model)
    with pytest.raises(UsageError, match="a text can't be read"):
        predictions.predict([model], [ITEMS[0], Text("\ud800"), *ITEMS])
    assert counted == [1]


def test_predict_reports_all_rows_at_the_end(opened):
    """The last report has all of them."""
    reports = []
    predictions.predict([opened()], ITEMS, lambda done, total: reports.append((done, total)))
    assert reports[-1] == (len(ITEMS), len(ITEMS))


def test_models_for_few_rows_is_one():
    """A copy pays from some hundred rows on, and there are no more copies than cores."""
    assert predictions.models_for([]) == 1
    assert predictions.models_for([ITEMS[0]] * (2 * predictions.ROWS_PER_MODEL - 1)) == 1
    assert predictions.models_for([ITEMS[0]] * 1_000_000) >= 1


def test_vector_of_labels_is_in_the_order_of_the_model(opened):
    """The answer has the highest score first."""
    model = opened()
    answer = model.predict([Text("bad")])[0]
    scores = {it["label"]: it["score"] for it in answer["labels"]}
    expected = [scores[label] for label in model.manifest.postprocess.labels]
    np.testing.assert_array_equal(predictions.vector(answer, model.manifest), expected)
