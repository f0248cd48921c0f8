"""Estimators of tables, judged by their own library: the bundle answers the same, or the export names the reason.

docs/estimators.md lists what is tried here. With EDGEML_WRITE_DOCS=1 the page is written instead of checked.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from sklearn import (
    calibration,
    cluster,
    compose,
    decomposition,
    ensemble,
    gaussian_process,
    impute,
    linear_model,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
)
from sklearn.feature_extraction import text

import edgeml
from edgeml_core.errors import EdgemlError

PAGE = Path(__file__).parents[2] / "docs/estimators.md"
FLOWERS = sklearn.datasets.load_iris()
ROWS, SPECIES = FLOWERS.data, FLOWERS.target_names[FLOWERS.target]
DISEASE, PROGRESS = sklearn.datasets.load_diabetes(return_X_y=True)
HOLES = np.where(np.arange(ROWS.size).reshape(ROWS.shape) % 11 == 0, np.nan, ROWS)
#: Without equal distances, between which a search for neighbours chooses as it likes.
UNTIED = ROWS + np.random.default_rng(0).normal(0, 0.05, ROWS.shape)
TEXTS = ["The pump stopped.", "All is well today", "Zwölf Äpfel, naïve café", "water is cold, 3.14", "The tank ran DRY"]
GREEK = ["καλος δρομος", "νερο κρυο"]
MOODS = ["bad", "good", "good", "good", "bad"]
TRAVELLERS = pd.DataFrame(
    {
        "age": [20, 30, 40, 50, 60, 35] * 8,
        "fare paid": [1.5, np.nan, 3.0, 4.0, 7.25, 2.0] * 8,
        "city": ["Rom", "Köln", "Paris", "Rom", "Oslo", "Köln"] * 8,
        "deck": pd.Categorical(["a", "b", "c", "a", "b", "a"] * 8),
    }
)
RETURNED = np.array(["yes", "no", "no", "yes", "no", "yes"] * 8)


def travellers(last: Any) -> Any:
    """A pipeline over numbers with holes and texts, as most tables have them."""
    numbers = pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler())
    categories = preprocessing.OneHotEncoder(handle_unknown="ignore")
    columns = [("numbers", numbers, ["age", "fare paid"]), ("texts", categories, ["city", "deck"])]
    return pipeline.make_pipeline(compose.ColumnTransformer(columns), last).fit(TRAVELLERS, RETURNED)


def of_text(vectorizer: Any, last: Any) -> Any:
    """A pipeline over texts."""
    return pipeline.make_pipeline(vectorizer, last).fit(TEXTS, MOODS)


def xgboost(kind: str, rows: Any, target: Any) -> tuple[Any, Any]:
    """One of XGBoost's estimators, with its rows."""
    library = importlib.import_module("xgboost")
    return getattr(library, kind)(n_estimators=10, n_jobs=1).fit(rows, target), rows


def lightgbm(kind: str, rows: Any, target: Any) -> tuple[Any, Any]:
    """One of LightGBM's estimators, with its rows."""
    library = importlib.import_module("lightgbm")
    return getattr(library, kind)(n_estimators=10, n_jobs=1, verbose=-1).fit(rows, target), rows


def catboost(kind: str, rows: Any, target: Any) -> tuple[Any, Any]:
    """One of CatBoost's estimators, with its rows."""
    library = importlib.import_module("catboost")
    settings = {"iterations": 10, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    return getattr(library, kind)(**settings).fit(rows, target), rows


Make = Callable[[], tuple[Any, Any]]
#: First one of each way to answer, of each form of rows, and of each library.
EXPORTED: dict[str, Make] = {
    "ColumnTransformer of numbers and texts, LogisticRegression": lambda: (
        travellers(linear_model.LogisticRegression()),
        TRAVELLERS,
    ),
    "TfidfVectorizer, LogisticRegression": lambda: (
        of_text(text.TfidfVectorizer(), linear_model.LogisticRegression()),
        TEXTS,
    ),
    "HistGradientBoostingClassifier": lambda: (
        ensemble.HistGradientBoostingClassifier(max_iter=10).fit(HOLES, SPECIES),
        HOLES,
    ),
    "SVC of two classes": lambda: (svm.SVC().fit(ROWS[:100], SPECIES[:100]), ROWS[:100]),
    "OneClassSVM": lambda: (svm.OneClassSVM().fit(ROWS), ROWS),
    "KMeans": lambda: (cluster.KMeans(3, random_state=0, n_init=1).fit(ROWS), ROWS),
    "PCA": lambda: (decomposition.PCA(2).fit(ROWS), ROWS),
    "XGBClassifier": lambda: xgboost("XGBClassifier", HOLES, FLOWERS.target),
    "LGBMClassifier": lambda: lightgbm("LGBMClassifier", HOLES, SPECIES),
    "CatBoostClassifier": lambda: catboost("CatBoostClassifier", HOLES, SPECIES),
    "ColumnTransformer of numbers and texts, RandomForestClassifier": lambda: (
        travellers(ensemble.RandomForestClassifier(20, random_state=0)),
        TRAVELLERS,
    ),
    "OneHotEncoder of an array of texts, LogisticRegression": lambda: (
        pipeline.make_pipeline(
            preprocessing.OneHotEncoder(handle_unknown="ignore"), linear_model.LogisticRegression()
        ).fit(TRAVELLERS[["city", "deck"]].to_numpy(dtype=object), RETURNED),
        TRAVELLERS[["city", "deck"]].to_numpy(dtype=object),
    ),
    "StandardScaler of a data frame, Ridge": lambda: (
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.Ridge()).fit(
            pd.DataFrame(DISEASE, columns=[f"c {at}" for at in range(10)]), PROGRESS
        ),
        pd.DataFrame(DISEASE, columns=[f"c {at}" for at in range(10)]),
    ),
    "CountVectorizer of word pairs, MultinomialNB": lambda: (
        of_text(text.CountVectorizer(ngram_range=(1, 2)), naive_bayes.MultinomialNB()),
        TEXTS,
    ),
    "CountVectorizer of one-letter words": lambda: (
        of_text(text.CountVectorizer(token_pattern=r"(?u)\b\w+\b"), naive_bayes.MultinomialNB()),
        TEXTS,
    ),
    "CountVectorizer of words with hyphens": lambda: (
        of_text(text.CountVectorizer(token_pattern=r"[\w'-]+"), naive_bayes.MultinomialNB()),
        TEXTS,
    ),
    "LogisticRegression": lambda: (linear_model.LogisticRegression().fit(ROWS, SPECIES), ROWS),
    "ColumnTransformer that drops columns, Ridge": lambda: (
        pipeline.make_pipeline(compose.ColumnTransformer([("one", "passthrough", ["age"])]), linear_model.Ridge()).fit(
            TRAVELLERS, np.arange(len(TRAVELLERS))
        ),
        TRAVELLERS,
    ),
    "Ridge of two targets": lambda: (linear_model.Ridge().fit(DISEASE, np.stack([PROGRESS, -PROGRESS], 1)), DISEASE),
    "LinearSVC": lambda: (svm.LinearSVC().fit(ROWS, SPECIES), ROWS),
    "LinearSVC of two classes": lambda: (svm.LinearSVC().fit(ROWS, SPECIES == "setosa"), ROWS),
    "SVC": lambda: (svm.SVC().fit(ROWS, SPECIES), ROWS),
    "SVC with probabilities": lambda: (
        calibration.CalibratedClassifierCV(svm.SVC(), ensemble=False).fit(ROWS, SPECIES),
        ROWS,
    ),
    "SVR": lambda: (svm.SVR().fit(DISEASE, PROGRESS), DISEASE),
    "SGDClassifier": lambda: (linear_model.SGDClassifier(random_state=0).fit(ROWS, SPECIES), ROWS),
    "RidgeClassifier": lambda: (linear_model.RidgeClassifier().fit(ROWS, SPECIES), ROWS),
    "GaussianNB": lambda: (naive_bayes.GaussianNB().fit(ROWS, SPECIES), ROWS),
    "MLPClassifier": lambda: (neural_network.MLPClassifier((8,), max_iter=50).fit(ROWS, SPECIES), ROWS),
    "RandomForestClassifier": lambda: (ensemble.RandomForestClassifier(20).fit(ROWS, SPECIES), ROWS),
    "GradientBoostingRegressor": lambda: (ensemble.GradientBoostingRegressor().fit(DISEASE, PROGRESS), DISEASE),
    "HistGradientBoostingRegressor": lambda: (
        ensemble.HistGradientBoostingRegressor().fit(DISEASE, PROGRESS),
        DISEASE,
    ),
    "IsolationForest": lambda: (ensemble.IsolationForest(n_estimators=20, random_state=0).fit(ROWS), ROWS),
    "GaussianProcessRegressor": lambda: (
        gaussian_process.GaussianProcessRegressor().fit(DISEASE[:50], PROGRESS[:50]),
        DISEASE,
    ),
    "KNeighborsClassifier with labels of text": lambda: (
        neighbors.KNeighborsClassifier().fit(UNTIED, SPECIES),
        UNTIED,
    ),
    "KNeighborsRegressor": lambda: (neighbors.KNeighborsRegressor().fit(DISEASE, PROGRESS), DISEASE),
    "LocalOutlierFactor": lambda: (neighbors.LocalOutlierFactor(novelty=True).fit(UNTIED), UNTIED),
    "XGBRegressor": lambda: xgboost("XGBRegressor", DISEASE, PROGRESS),
    "LGBMRegressor": lambda: lightgbm("LGBMRegressor", DISEASE, PROGRESS),
    "CatBoostRegressor": lambda: catboost("CatBoostRegressor", DISEASE, PROGRESS),
}
#: Estimators that no bundle answers like, with a part of the message.
REFUSED: dict[str, tuple[Make, str]] = {
    "TfidfVectorizer of word pairs without stop words": (
        lambda: (
            of_text(text.TfidfVectorizer(stop_words="english", ngram_range=(1, 2)), linear_model.LogisticRegression()),
            ["water is cold", "the pump is cold"],
        ),
        "the answers are not the original's",
    ),
    "CountVectorizer of a pattern with boundaries inside": (
        lambda: (of_text(text.CountVectorizer(token_pattern=r"\b[a-z]\w*\b"), naive_bayes.MultinomialNB()), TEXTS),
        "which the runtime reads in another way",
    ),
    "TfidfVectorizer of Greek": (
        lambda: (
            pipeline.make_pipeline(text.TfidfVectorizer(), linear_model.LogisticRegression()).fit(GREEK, ["a", "b"]),
            GREEK,
        ),
        "a letter's small form by its place",
    ),
    "GaussianProcessClassifier of three classes": (
        lambda: (gaussian_process.GaussianProcessClassifier().fit(ROWS, SPECIES), ROWS),
        "Only binary classification",
    ),
    "VotingClassifier without probabilities": (
        lambda: (
            ensemble.VotingClassifier([("a", naive_bayes.GaussianNB()), ("b", svm.SVC())]).fit(ROWS, SPECIES),
            ROWS,
        ),
        "gives labels only",
    ),
    "KNeighborsClassifier of two targets": (
        lambda: (
            neighbors.KNeighborsClassifier().fit(ROWS, np.stack([FLOWERS.target, FLOWERS.target > 0], 1)),
            ROWS,
        ),
        "no score for each of its classes",
    ),
    "one that isn't fitted": (lambda: (linear_model.Ridge(), DISEASE), "not fitted"),
    "a column of dates": (
        lambda: (
            linear_model.Ridge().fit(DISEASE[:3, :1], [1, 2, 3]),
            pd.DataFrame({"when": pd.to_datetime(["2026-01-01", "2026-01-02"])}),
        ),
        "columns hold numbers or texts",
    ),
}


def exported(made: tuple[Any, Any], folder: Path) -> Any:
    """The one bundle of an estimator."""
    estimator, rows = made
    (bundle,) = edgeml.export(estimator, "x86-vnni", output=folder, example=rows, formats=("onnx",))
    return bundle


@pytest.mark.parametrize("name", EXPORTED)
def test_estimator_answers_as_its_own_library(tmp_path: Path, name: str):
    """What ships is fp32, has been compared by the library itself, and says so."""
    bundle = exported(EXPORTED[name](), tmp_path)
    assert bundle.manifest.card.recipe == "none"
    assert bundle.manifest.card.oracle.items > len(TEXTS)


@pytest.mark.parametrize("name", REFUSED)
def test_estimator_that_would_answer_otherwise_is_refused_in_one_line(tmp_path: Path, name: str):
    """No bundle, and a reason that fits a line of a terminal."""
    make, reason = REFUSED[name]
    with pytest.raises(EdgemlError) as caught:
        exported(make(), tmp_path)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not list(tmp_path.glob("*.edgeml"))


def test_row_object_of_a_table_gets_the_answer_of_the_pipeline(tmp_path: Path):
    """As a client sends it: one value for each column, null for a missing number, a city that training never saw."""
    model = travellers(linear_model.LogisticRegression())
    bundle = exported((model, TRAVELLERS), tmp_path)
    row = {"age": 33.5, "fare paid": None, "city": "Bern", "deck": "c"}
    (answer,) = bundle.run({"inputs": row})
    expected = model.predict_proba(pd.DataFrame([row | {"fare paid": np.nan}]))[0]
    found = {it["label"]: it["score"] for it in answer["labels"]}
    assert [found["no"], found["yes"]] == pytest.approx(expected.tolist(), abs=1e-4)


def test_page_lists_what_is_tried():
    """Each row is held by a test above."""
    if os.environ.get("EDGEML_WRITE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def page() -> str:
    """The table of estimators and outcomes."""
    exported_ones = "".join(f"| {name} | exported |\n" for name in EXPORTED)
    refused = "".join(f"| {name} | refused: {reason} |\n" for name, (_, reason) in REFUSED.items())
    return (
        "<!-- Generated by tests/oracle/test_estimators.py with EDGEML_WRITE_DOCS=1. -->\n\n# Estimators\n\n"
        "scikit-learn, XGBoost, LightGBM and CatBoost. Exported: the fp32 model answers the rows as given, and hard "
        "ones made of them,\nas the estimator's own library. Trees and tables are not quantized.\n\n"
        f"| estimator | outcome |\n|---|---|\n{exported_ones}{refused}"
    )
