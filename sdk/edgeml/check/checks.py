"""All checks of one candidate: parity with the original, accuracy, golden cases and the baseline for drift.

`gate` compares the results with the limits. Each kind of check has its own module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from msgspec import UNSET

from edgeml.check import accuracy, against_oracle, greedy_agreement, memory, parity
from edgeml.check.baseline import observe
from edgeml.check.candidate import Candidate, open_candidate, open_fp32, open_original
from edgeml.check.data import Rows
from edgeml.check.inputs import ROWS_TAKEN_MAX, Inputs
from edgeml.check.parity import OutputParity
from edgeml.check.predictions import Advance, ignore, models_for, predict, predict_together, scores
from edgeml.exporters.source import FLOAT, Source
from edgeml.memo import Memo
from edgeml.oracle import hard_items
from edgeml.quantize import recipes
from edgeml_core.card import Accuracy, Card, GreedyAgreement, Parity
from edgeml_core.drift import Baseline
from edgeml_core.golden import GoldenCase
from edgeml_core.manifest import Manifest
from edgeml_core.processing import DecodedText, DecodedTranscript, Generation, QuestionInput, TextInput
from edgeml_runtime.drift_features import is_observed
from edgeml_runtime.inputs import preparer
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Item, ScoredText
from edgeml_runtime.tensors import Array
from edgeml_runtime.verify import golden

NO_LABELS: Final = "not measured: no --evaluate was given"
#: Rows and inputs that the original's library answers beside the hard items.
RAW_INPUTS_MAX: Final = 16
#: Inputs; two differ enough to show a model that ignores its input.
GOLDEN_FIRST: Final = 2
#: Tokens of a golden input of a model that takes any length: the targets' bounds were measured on sentences. On a
#: text of 256 tokens, MiniLM's largest distance between a Cortex-A72 and x86 is 1.6 times the bound.
GOLDEN_LENGTH_MAX: Final = 128


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A candidate's answers compared with the original's; `answers` are those to the evaluation rows."""

    parity: Parity
    by_output: tuple[OutputParity, ...]
    greedy: GreedyAgreement | None
    accuracy: Accuracy | None
    answers: tuple[Answer, ...]
    cases: tuple[GoldenCase, ...]
    baseline: Baseline | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of the checks, for the manifest."""

    card: Card
    by_output: tuple[OutputParity, ...]
    cases: tuple[GoldenCase, ...]
    ram_bytes: int


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The original and the data that every candidate is checked against.

    Args:
        source: the original.
        inputs: for parity and golden cases.
        evaluation: rows with labels, for accuracy.
        calibration: rows for static int8.
        max_drop: the accepted loss of accuracy, as a fraction of 1.
        once: results that several targets share.
        advance: receives the number of rows answered, and of all.
    """

    source: Source
    inputs: Inputs
    evaluation: Rows
    calibration: Rows
    max_drop: float
    once: Memo = field(default_factory=Memo)
    advance: Advance = ignore

    @property
    def raw_items(self) -> list[Item]:
        """The items that the original's own library answers, too: hard ones, then the first rows and inputs."""
        rows = [it for it in (*self.evaluation.items, *self.calibration.items) if not isinstance(it, ScoredText)]
        usual = [*rows[:RAW_INPUTS_MAX], *self.inputs.items][:RAW_INPUTS_MAX]
        signature = self.source.signature
        if self.source.judge:
            return [*self.source.judge.items, *usual]
        unread = against_oracle.unread_counter(signature.preprocess, self.source.assets)
        return [*hard_items.hard(signature.preprocess, signature.postprocess, unread), *usual]

    def run(self, candidate: Candidate) -> Findings:
        """Run all checks of a candidate.

        Raises:
            DeviceError: `runtime-failed`, when the runtime can't run the model.
        """
        found = self.once(("answered", candidate.key), lambda: self._answered(candidate))
        return Findings(
            card=self._card(candidate, found),
            by_output=found.by_output,
            cases=found.cases,
            ram_bytes=memory.estimate_bytes(candidate.model, candidate.fp32),
        )

    def typical_input(self, candidate: Candidate) -> dict[str, Array]:
        """Prepare the input of median length: of the operator's rows, or else of the checks' own inputs.

        Returns:
            Tensors by name, as the candidate's model takes them.
        """
        prepare = preparer(candidate.model.folder, candidate.manifest)
        items = (self.evaluation.items or self.calibration.items or self.inputs.items)[:ROWS_TAKEN_MAX]
        prepared = sorted((prepare([item]).tensors for item in items), key=_elements)
        return prepared[len(prepared) // 2]

    def _answered(self, candidate: Candidate) -> Answered:
        with ExitStack() as stack:
            count = models_for(self.evaluation.items)
            models = [stack.enter_context(open_candidate(candidate)) for _ in range(count)]
            model = models[0]
            answers, baseline = self._answers(models)
            pair = scores(model, self.inputs.items), self._original(candidate, cut=True)
            return Answered(
                parity=parity.compare(*pair, candidate.manifest, against=self.source.original_name),
                by_output=parity.by_output(*pair, candidate.manifest),
                greedy=self._greedy(candidate, model),
                accuracy=self._accuracy(candidate, answers) if answers else None,
                answers=tuple(answers),
                cases=self._golden_cases(candidate, model),
                baseline=baseline,
            )

    def _answers(self, models: Sequence[Model]) -> tuple[list[Answer], Baseline | None]:
        """Answer the evaluation rows, and count the answers; without such rows count those to calibration rows."""
        with observe(*models) as observations:
            answers = predict(models, self.evaluation.items, self.advance)
            if answers or not is_observed(models[0].manifest):
                return answers, observations.baseline("evaluation")
            predict(models, self.calibration.items[:ROWS_TAKEN_MAX])
            return answers, observations.baseline("calibration")

    def accuracies(self, candidate: Candidate, elsewhere: Sequence[Answer]) -> tuple[Accuracy, Accuracy]:
        """Measure accuracy on the first evaluation rows, on this machine and on another CPU.

        Args:
            candidate: has been checked.
            elsewhere: its answers to those rows on the other CPU.

        Returns:
            The accuracy here, and there.
        """
        found = self.once(("answered", candidate.key), lambda: self._answered(candidate))
        here = self._accuracy(candidate, found.answers[: len(elsewhere)])
        return here, self._accuracy(candidate, elsewhere)

    def _accuracy(self, candidate: Candidate, answers: Sequence[Answer]) -> Accuracy:
        before, rows = self._original(candidate, cut=False), self.evaluation.rows
        count = len(answers)
        return accuracy.measure(before[:count], answers, rows[:count], candidate.manifest)

    def _greedy(self, candidate: Candidate, model: Model) -> GreedyAgreement | None:
        """Compare what a quantized model of texts writes with fp32's. Sounds of the checks' own have no words."""
        writes = isinstance(candidate.manifest.postprocess, Generation | DecodedText)
        if not writes or candidate.model.recipe == FLOAT:
            return None

        def write() -> list[greedy_agreement.Written]:
            with open_fp32(candidate) as fp32:
                return greedy_agreement.texts(fp32, self.evaluation.items or self.inputs.items)

        return greedy_agreement.measure(model, self.once(("greedy", candidate.fp32.path), write), self.advance)

    def _original(self, candidate: Candidate, *, cut: bool) -> list[Answer]:
        """Answer with the original: the inputs where `cut`, else the evaluation rows."""
        key = "original", cut, candidate.model.file_format if cut else ""

        def answer() -> list[Answer]:
            if cut:
                return scores(open_original(self.source, candidate, cut=True), self.inputs.items)
            items = self.evaluation.items
            # A module from a function may keep a state: one thread asks it. Those of libraries keep none.
            count = models_for(items) if self.source.folder else 1
            originals = [open_original(self.source, candidate, cut=False) for _ in range(count)]
            return predict_together(originals, items, self.advance)

        return self.once(key, answer)

    def _golden_cases(self, candidate: Candidate, model: Model) -> tuple[GoldenCase, ...]:
        cases = golden.record(model.session, self._golden_inputs(candidate))
        setup = candidate.profile.engines[candidate.manifest.runtime.engine]
        max_abs = golden.bound(cases, setup.golden.max_relative)
        return golden.with_tokens(model.session, candidate.manifest, cases, max_abs=max_abs)

    def _golden_inputs(self, candidate: Candidate) -> list[dict[str, Array]]:
        """Prepare the first inputs, the largest one, and one of each fixed length that is not among them."""
        prepare = preparer(candidate.model.folder, candidate.manifest)
        prepared = [_shortened(prepare([item]).tensors, candidate.manifest) for item in self.inputs.items]
        golden_inputs = prepared[:GOLDEN_FIRST]
        rest = sorted(prepared[GOLDEN_FIRST:], key=_elements, reverse=True)
        if not getattr(candidate.manifest.preprocess, "pad_to", ()):
            return golden_inputs + ([it for it in rest if _length(it) <= GOLDEN_LENGTH_MAX] or rest)[:1]
        by_size = {_elements(tensors): tensors for tensors in reversed(rest)}
        sizes = by_size.keys() - {_elements(tensors) for tensors in golden_inputs}
        return golden_inputs + [by_size[size] for size in sorted(sizes)]

    def _card(self, candidate: Candidate, found: Answered) -> Card:
        doubt = accuracy.doubt(found.accuracy, self.max_drop) if found.accuracy else None
        is_calibrated = recipes.TABLE[candidate.model.recipe].needs_calibration
        return Card(
            recipe=candidate.model.recipe,
            size_bytes=candidate.model.size_bytes,
            baseline_size_bytes=candidate.fp32.size_bytes,
            parity=found.parity,
            accuracy=found.accuracy,
            accuracy_note="" if found.accuracy else NO_LABELS,
            calibration_rows=len(self.calibration.rows) if is_calibrated else 0,
            calibration_sha256=self.calibration.sha256 if is_calibrated else "",
            warnings=(
                *self.source.notes,
                *candidate.model.notes,
                *self.inputs.notes,
                *self._cut_note(candidate),
                *filter(None, (self.evaluation.note, doubt)),
            ),
            baseline=found.baseline or UNSET,
            greedy=found.greedy or UNSET,
        )

    def _cut_note(self, candidate: Candidate) -> tuple[str, ...]:
        text, own = candidate.model.signature.preprocess, self.source.signature.preprocess
        if not (isinstance(text, TextInput) and isinstance(own, TextInput)) or text.max_length == own.max_length:
            return ()
        action = "contexts are read in parts of" if isinstance(text, QuestionInput) else "texts are cut at"
        return (f"{action} {text.max_length} tokens; the original takes {own.max_length}",)


def _shortened(tensors: dict[str, Array], manifest: Manifest) -> dict[str, Array]:
    """Keep the beginning of a spectrum, whose keys and values are outputs: those of 30 s are larger than the model."""
    if not isinstance(manifest.postprocess, DecodedTranscript):
        return tensors
    longest = max(tensors, key=lambda name: tensors[name].shape[-1])
    return {**tensors, longest: np.ascontiguousarray(tensors[longest][..., :GOLDEN_LENGTH_MAX])}


def _length(tensors: Mapping[str, Array]) -> int:
    """The last axis of the longest input: tokens, for a text."""
    return max(array.shape[-1] if array.ndim else 1 for array in tensors.values())


def _elements(tensors: Mapping[str, Array]) -> int:
    return sum(array.size for array in tensors.values())
