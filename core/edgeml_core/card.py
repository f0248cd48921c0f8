"""The result card: the findings about a bundle, each with how it was obtained.

It has two parts (docs/decisions/0001). `Card` follows from the bundle's bytes and its inputs alone. It is inside the
bundle, and exporting twice gives the same bytes. `Measurements` are from one machine on one day. They are stored beside
the bundle, name its digest, and are signed with it when it is published.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgeml_core.drift import Baseline

#: How a figure was obtained. Emulated time is never a speed, so latency is never "emulated".
How = Literal["measured", "emulated", "estimated", "not measured"]

#: The metric of language models.
PERPLEXITY: Final = "perplexity"
#: The metric of speech recognition.
WORD_ERROR_RATE: Final = "word error rate"

#: Summary of a card without a baseline. Language models are evaluated on whole texts, which are no prompts.
NO_BASELINE: Final = "none: too few rows in --evaluate or --calibrate, or a language model"

MEASUREMENTS_SUFFIX: Final = ".measured.json"


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The distance between the shipped model's outputs and the original's, over `rows` real inputs."""

    against: str
    rows: int
    max_abs: float
    cosine: float


class Oracle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The original's own library gave the answers of the unquantized form to `items` raw items, alone and together."""

    library: str
    items: int

    @property
    def summary(self) -> str:
        """Text for people."""
        return f"{self.library} gives the answers of the fp32 form to {self.items} items, alone and together"


class GreedyAgreement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The likeliest token at each place of the texts that fp32 writes behind `prompts`, compared with fp32's choice.

    Attributes:
        prompts: texts that were written.
        tokens: in all texts.
        agreed: the tokens at whose places the shipped model chooses the same.
        whole: the texts in which it chooses the same at all places: it writes them, too.
        first_difference: median place of the first other token, in the other texts; the first token has place 1.
    """

    prompts: int
    tokens: int
    agreed: int
    whole: int
    first_difference: float | None

    @property
    def fraction(self) -> float:
        """The fraction of the tokens that are the same."""
        return self.agreed / self.tokens

    @property
    def summary(self) -> str:
        """Text for people."""
        others = "" if self.first_difference is None else f"; the others differ from token {self.first_difference:g} on"
        return f"{self.fraction:.1%} of {self.tokens} tokens, {self.whole} of {self.prompts} texts whole{others}"


class ClassAccuracy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accuracy on the rows with one label, as fractions of 1. For token classes, rows are words."""

    label: str
    rows: int
    fp32: float
    int8: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The task metric on `--evaluate`, paired row by row with fp32, as fractions of 1.

    Of a perplexity and a word error rate lower is better. `drop` and its interval are then the rise: of a perplexity as
    a fraction of itself, of an error rate as it is.
    """

    metric: str
    rows: int
    fp32: float
    int8: float
    drop: float
    ci95: tuple[float, float]
    classes: tuple[ClassAccuracy, ...] = ()

    @property
    def is_fraction(self) -> bool:
        """Whether the metric is a fraction of right answers, of which more are better."""
        return self.metric not in (PERPLEXITY, WORD_ERROR_RATE)

    @property
    def summary(self) -> str:
        """Text for people: before and after, and the change with its interval."""
        low, high = self.ci95
        digits, change = 2 if self.metric == PERPLEXITY else 4, "drop" if self.is_fraction else "rise"
        return (
            f"{self.fp32:.{digits}f} -> {self.int8:.{digits}f}, {change} {self.drop:+.2%} "
            f"(95 %: {low:+.2%} to {high:+.2%}), {self.rows} rows"
        )


class Tried(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One candidate of the gate, including the shipped one. `why` it was rejected is empty for one that passed.

    Figures of steps that a candidate didn't reach are zero or absent. Its times are in `Measurements`.
    """

    format: str
    recipe: str
    why: str = ""
    size_bytes: int = 0
    ram_bytes: int = 0
    cosine: float | None = None
    drop: float | None = None
    ci95: tuple[float, float] | None = None

    @property
    def passed(self) -> bool:
        """Whether the candidate met all limits."""
        return not self.why


class TargetVerification(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bundle verified on the target's own CPU; when it wasn't, `note` gives the cause and the remedy.

    `accuracy` is on the first evaluation rows, which are fewer than the card's own.
    """

    cpu: str
    how: How
    min_cosine: float | None = None
    max_abs: float | None = None
    accuracy: Accuracy | None = None
    note: str = ""


class KernelUse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operators of one kind that multiply weights for a token.

    Attributes:
        operator: the runtime's name, after its own fusion.
        bits: of a weight as it is multiplied.
        count: of the operators.
        share: the fraction of the multiplied weights.
        kernel: how they compute, as seen there; empty where nothing shows it.
    """

    operator: str
    bits: int
    count: int
    share: float
    kernel: str

    @property
    def summary(self) -> str:
        """Text for people."""
        details = ", ".join(filter(None, (f"{self.bits} bits", self.kernel)))
        return f"{self.count} {self.operator} ({100 * self.share:.3g}%; {details})"


class Kernels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operators that ran for one token of a language model on the target's CPU, by the runtime's own profile.

    Attributes:
        cpu: the CPU's name.
        how: whether that CPU was emulated.
        runtime: its name and version.
        operators: all that ran.
        products: those that multiply weights, the most weights first.
    """

    cpu: str
    how: How
    runtime: str
    operators: int
    products: tuple[KernelUse, ...]

    @property
    def summary(self) -> str:
        """Text for people: one sentence."""
        where = f"{self.cpu}, emulated" if self.how == "emulated" else self.cpu
        uses = " and ".join(it.summary for it in self.products)
        return f"a token takes {self.operators} operators on {where}; its weights are multiplied in {uses}"


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"verified": "proved"}):
    """All figures that follow from the bundle itself. Sizes are of the model's files, in bytes.

    `choice` says in one sentence why this format ships. `greedy` compares what a model of texts writes with fp32's
    texts, and `kernels` has the operators that multiply its weights. These, `baseline` and `oracle` are left out where
    there is none, so that agents which don't know them take such a bundle.
    """

    recipe: str
    size_bytes: int
    baseline_size_bytes: int
    parity: Parity
    accuracy: Accuracy | None = None
    accuracy_note: str = ""
    calibration_rows: int = 0
    calibration_sha256: str = ""
    tried: tuple[Tried, ...] = ()
    verified: tuple[TargetVerification, ...] = ()
    warnings: tuple[str, ...] = ()
    baseline: Baseline | UnsetType = UNSET
    choice: str | UnsetType = UNSET
    oracle: Oracle | UnsetType = UNSET
    greedy: GreedyAgreement | UnsetType = UNSET
    kernels: Kernels | UnsetType = UNSET

    @property
    def size_summary(self) -> str:
        """Text for people: the size as a share of fp32's, where that is known."""
        if not self.baseline_size_bytes:
            return "fp32's size is not known"
        return f"{self.size_bytes / self.baseline_size_bytes:.2f} x fp32"

    @property
    def baseline_summary(self) -> str:
        """Text for people: the baseline of a device's drift."""
        return self.baseline.summary if self.baseline else NO_BASELINE


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model's latency at batch 1, in milliseconds, after `warmup` runs not counted."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    runs: int
    warmup: int


class Energy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Joules per inference, or the reason why there are none."""

    joules_per_inference: float | None
    note: str

    @property
    def summary(self) -> str:
        """Text for people."""
        joules = self.joules_per_inference
        return f"not measured: {self.note}" if joules is None else f"{joules:.4f} J per inference ({self.note})"


class Verified(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One CPU on which the golden outputs were reproduced, or not."""

    cpu: str
    how: How
    ok: bool
    note: str = ""


class Prefill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The median times in which two forms of a language model read a prompt of `tokens`, in milliseconds."""

    tokens: int
    fp32_ms: float
    int8_ms: float

    @property
    def speedup(self) -> float:
        """The ratio of fp32's time to the other form's."""
        return self.fp32_ms / self.int8_ms

    @property
    def summary(self) -> str:
        """Text for people."""
        per_s = 1000 * self.tokens / self.int8_ms
        return f"{per_s:.0f} tokens/s, {self.speedup:.2f} x fp32, of a prompt of {self.tokens}"


class MemoryBound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The weights that a language model reads for each token, and the rate at which the machine read memory.

    Both are in bytes. The rate is of a buffer as large, or several times the last-level cache, on the same threads.
    """

    weight_bytes: int
    bytes_per_s: int


class CandidateTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The median times of one candidate and of fp32 in the same run, in milliseconds.

    Of a language model they are those of one token. `prefill` is left out for other models.
    """

    format: str
    recipe: str
    fp32_ms: float
    int8_ms: float
    prefill: Prefill | UnsetType = UNSET


class Compared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One format in the comparison that chose the one to ship: the expected time, in milliseconds, over all lengths.

    `time_ratio` is over the time of the format that ships, with its 99 % interval over `turns` paired turns. Too few
    turns give no interval.
    """

    format: str
    expected_ms: float
    time_ratio: float
    interval: tuple[float, float] | None
    turns: int


class Measurements(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One machine's measurements of one bundle. `fp32` and `int8` are from the same run on the same threads.

    Throughput and energy are of a run of the bundle alone, one inference after another, batch 1. Of a language model an
    inference is one token; `prefill` is left out for other models. `memory` is left out for them, and for language
    models of which caches hold much. `doubts` names other load on the machine meanwhile.
    """

    manifest_sha256: str
    cpu: str
    threads: int
    fp32: Latency
    int8: Latency
    load_ms: float
    first_inference_ms: float
    peak_rss_bytes: int
    throughput_per_s: float
    energy: Energy
    doubts: tuple[str, ...] = ()
    verified_on: tuple[Verified, ...] = ()
    candidates: tuple[CandidateTimes, ...] = ()
    compared: tuple[Compared, ...] = ()
    prefill: Prefill | UnsetType = UNSET
    memory: MemoryBound | UnsetType = UNSET

    @property
    def speedup(self) -> float:
        """The ratio of fp32's median time to the bundle's."""
        return self.fp32.p50_ms / self.int8.p50_ms

    @property
    def memory_fraction(self) -> float | None:
        """The rate at which a language model reads its weights, as a fraction of the memory's; None if not known.

        Above 1 the caches helped after all, and it says nothing.
        """
        if not self.memory:
            return None
        fraction = self.memory.weight_bytes / (self.int8.p50_ms / 1000) / self.memory.bytes_per_s
        return fraction if fraction <= 1 else None

    @property
    def writes_summary(self) -> str:
        """Text for people: the speed of a language model's text."""
        found, fraction = f"{1000 / self.int8.p50_ms:.1f} tokens/s", self.memory_fraction
        return found if fraction is None else f"{found}, {fraction:.0%} of what this memory allows"


def encode_measurements(measurements: Measurements) -> bytes:
    """Return the bytes of a `.measured.json` file."""
    return msgspec.json.format(msgspec.json.encode(measurements, order="deterministic"), indent=1) + b"\n"
