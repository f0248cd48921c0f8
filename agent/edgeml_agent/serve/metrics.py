"""Counts of requests, and the `/metrics` page in Prometheus' text format. Nothing is sampled in the background.

Source: https://prometheus.io/docs/instrumenting/exposition_formats (text format 0.0.4) and practices/naming.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from edgeml_core.errors import EdgemlError

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: Upper bounds of the buckets in seconds: from a small model on a PC to a large one on a small board.
LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Requests of one model that are remembered one by one; the page plots them.
LAST_MAX: Final = 60
#: The outcome of a request whose client left before the answer.
CANCELLED: Final = "cancelled"

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]


@dataclass
class _Histogram:
    """Observations by bucket; the last bucket has no upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, duration_s: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS_S, duration_s)] += 1
        self.sum_s += duration_s


@dataclass
class Tally:
    """A number of requests or runs, and the time they took together."""

    count: int = 0
    total_s: float = 0.0

    def add(self, duration_s: float, count: int = 1) -> None:
        """Add requests or runs."""
        self.count += count
        self.total_s += duration_s


@dataclass
class _OfModel:
    """The counts of one model."""

    by_code: dict[str, _Histogram] = field(default_factory=lambda: defaultdict(_Histogram))
    waits: _Histogram = field(default_factory=_Histogram)
    last: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=LAST_MAX))
    last_s: float = 0.0
    tokens: int = 0


class RequestCounts:
    """Requests by model and outcome, and how long they took from arrival to answer, waiting included.

    An outcome is `ok`, an error's code, or `CANCELLED`.
    """

    def __init__(self) -> None:
        self._of: dict[str, _OfModel] = defaultdict(_OfModel)

    def add(self, model: str, code: str, duration_s: float) -> None:
        """Count one request."""
        of = self._of[model]
        of.by_code[code].add(duration_s)
        of.last_s = time.time()
        if code != CANCELLED:
            of.last.append((duration_s, code == "ok"))

    def waited(self, model: str, duration_s: float) -> None:
        """Count the time that a request spent in the model's queue."""
        self._of[model].waits.add(duration_s)

    def wrote(self, model: str) -> None:
        """Count a token that a language model wrote."""
        self._of[model].tokens += 1

    def tokens(self, model: str) -> int:
        """The number of tokens that the model wrote."""
        return self._of[model].tokens if model in self._of else 0

    def tally(self, model: str) -> tuple[Tally, Tally]:
        """The requests to one model that were answered, and the others."""
        good, bad = Tally(), Tally()
        for code, histogram in self._by_code(model).items():
            (good if code == "ok" else bad).add(histogram.sum_s, sum(histogram.counts))
        return good, bad

    def last_s(self, model: str) -> float:
        """The time at which the last request to a model ended, in seconds since 1970; 0 before the first."""
        return self._of[model].last_s if model in self._of else 0.0

    def last(self, model: str) -> Sequence[tuple[float, bool]]:
        """The seconds of the last requests to a model, newest last, and whether answered; no cancelled ones."""
        return tuple(self._of[model].last) if model in self._of else ()

    def codes(self, model: str) -> dict[str, int]:
        """The number of requests to a model by outcome."""
        return {code: sum(histogram.counts) for code, histogram in self._by_code(model).items()}

    def totals(self) -> Iterator[Sample]:
        """The counter's samples."""
        for model in sorted(self._of):
            for code, count in sorted(self.codes(model).items()):
                yield "", {"model": model, "code": code}, count

    def latencies(self) -> Iterator[Sample]:
        """The samples of the histogram of request times."""
        return _histograms({model: _joined(of.by_code.values()) for model, of in self._of.items()})

    def waits(self) -> Iterator[Sample]:
        """The samples of the histogram of waiting times."""
        return _histograms({model: of.waits for model, of in self._of.items()})

    def _by_code(self, model: str) -> Mapping[str, _Histogram]:
        return self._of[model].by_code if model in self._of else {}


class Counted:
    """Counts the request that the block answers. A class, since a generator takes three times as long.

    Args:
        served: the names of models that are served at the end. Any other name is no label, as clients could make up any
            number of them.
    """

    __slots__ = ("_begun_s", "_counts", "_name", "_served")

    def __init__(self, counts: RequestCounts, served: Container[str], name: str) -> None:
        self._counts = counts
        self._served = served
        self._name = name
        self._begun_s = time.perf_counter()

    def __enter__(self) -> None:
        """See the class."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """See the class."""
        name = self._name if self._name in self._served else ""
        code = "ok" if error is None else _outcome(error)
        self._counts.add(name, code, time.perf_counter() - self._begun_s)


def _outcome(error: BaseException) -> str:
    if isinstance(error, EdgemlError):
        return error.code
    return CANCELLED if isinstance(error, asyncio.CancelledError | GeneratorExit) else "internal"


def _joined(histograms: Collection[_Histogram]) -> _Histogram:
    counts = [sum(counts) for counts in zip(*(it.counts for it in histograms), strict=True)]
    return _Histogram(counts, sum(it.sum_s for it in histograms))


def _histograms(by_model: Mapping[str, _Histogram]) -> Iterator[Sample]:
    """Yield cumulative buckets, sum and count of each model with observations."""
    for model, histogram in sorted(by_model.items()):
        total = 0
        if not any(histogram.counts):
            continue
        for bound, count in zip((*LATENCY_BUCKETS_S, "+Inf"), histogram.counts, strict=True):
            total += count
            yield "_bucket", {"model": model, "le": str(bound)}, total
        yield "_sum", {"model": model}, histogram.sum_s
        yield "_count", {"model": model}, total


@dataclass(frozen=True)
class Metric:
    """One metric and its samples, each with the ending of its name."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def render(metrics: Iterator[Metric]) -> str:
    """Write metrics as text."""
    return "".join(line for metric in metrics for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}\n"
    yield f"# TYPE {metric.name} {metric.kind}\n"
    for ending, labels, value in metric.samples:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{metric.name}{ending}{{{pairs}}} {value}\n" if pairs else f"{metric.name}{ending} {value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
