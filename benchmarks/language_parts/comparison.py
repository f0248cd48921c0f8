"""Figures of a language model's race: tokens a second, memory, closeness to PyTorch, and ratios to the rivals."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeml_runtime.generate.batch import ROWS_MAX
from edgeml_runtime.verify.golden import cosine
from export_parts.comparison import THREADS, saved
from export_parts.race import Contender, NotStartedError, Request, Result, burst_runs, outputs, ratio, running, turns
from harness import host
from harness.figures import Aim, Figure, Omission, Outcome, Run, least
from harness.rivals import RivalUnavailableError
from language_parts import contenders, shapes
from language_parts.contenders import INT4, INT8, INT8_BLOCKS, LLAMA_CPP, OPTIMUM, PYTORCH, RECIPES, RefusedError, Task
from language_parts.shapes import Shape

MB: Final = 1_000_000
#: Tokens of the longest prompt.
PROMPT_TOKENS: Final = 256
#: Timed tokens of a burst that writes: the same for all, since later ones attend to more.
WRITTEN_TOKENS: Final = 16
#: Tokens of the prompts of conversations that are written at a time.
TOGETHER_TOKENS: Final = 128
#: Against the fastest rival of all.
FASTEST: Final = "the fastest rival"


@dataclass(frozen=True, kw_only=True)
class Work:
    """The timed work: reading a prompt of `tokens` tokens, or writing after it.

    Attributes:
        title: the name in figures.
        verb: of the runner's command.
        tokens: of the prompt.
        aims: of each of edgeml's contenders against a rival at the same bits. Two of them have 8 bits: one is made to
            write, the other to read prompts, and `--prefer` chooses.
        fastest: the aim of edgeml's fastest against the fastest rival.
    """

    title: str
    verb: str
    tokens: int
    aims: Mapping[tuple[str, str], Aim | None]
    fastest: Aim | None = None

    @property
    def counted(self) -> int:
        """The tokens of one timed run."""
        return self.tokens if self.verb == "prefill" else 1

    def command(self, ask: Request) -> str:
        """Return the command of a burst."""
        begun = f"{self.verb} {self.tokens}"
        return f"{begun} {burst_runs(ask, begun) if self.verb == 'prefill' else WRITTEN_TOKENS}"


Q4_0, Q8_0 = LLAMA_CPP["Q4_0"], LLAMA_CPP["Q8_0"]
DECODE_AIMS: Final = {(INT4, Q4_0): least(1.1), (INT8_BLOCKS, Q8_0): least(1.1), (INT8, Q8_0): None}
PREFILL_AIMS: Final = {(INT4, Q4_0): least(0.8), (INT8, Q8_0): least(2), (INT8_BLOCKS, Q8_0): None}
WORKS: Final = (
    Work(title="decode after 16 tokens", verb="decode", tokens=16, aims=DECODE_AIMS, fastest=least(1)),
    Work(title="decode after 256 tokens", verb="decode", tokens=256, aims=DECODE_AIMS, fastest=least(1)),
    Work(title="prefill of 256 tokens", verb="prefill", tokens=256, aims=PREFILL_AIMS),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """At least `rounds` quiet rounds of each work, within `limit_s` seconds."""

    rounds: int
    limit_s: float


FULL: Final = Size(rounds=9, limit_s=120)
QUICK: Final = Size(rounds=1, limit_s=1)


@dataclass(frozen=True, kw_only=True)
class Entered:
    """A contender whose process has loaded its model."""

    contender: Contender
    ask: Request


def figures(run: Run, shape: Shape) -> Iterator[Outcome]:
    """Yield the speeds, the memory, the closeness and the ratios of a shape."""
    folder = run.folder / shape.title.replace(" ", "-")
    folder.mkdir()
    model = shapes.saved(shape, folder / "model", is_quick=run.is_quick)
    task = Task(model=model, folder=folder, installs=not run.is_quick)
    made = [contenders.pytorch(task), *contenders.edgeml(task)]
    for name, convert in contenders.RIVALS.items():
        try:
            made += convert(task)
        except (RivalUnavailableError, RefusedError) as error:
            yield Omission(name=f"{shape.title}: {name}", reason=str(error).replace(f"{folder}/", ""))
    gc.collect()
    prompt = saved({"input_ids": shapes.prompt(PROMPT_TOKENS)}, folder / "prompt.npz")
    with ExitStack() as stack:
        entered = []
        for it in made:
            try:
                entered.append(Entered(contender=it, ask=stack.enter_context(running(it, prompt, THREADS))))
            except NotStartedError as error:
                if it.kind in {"edgeml", "pytorch"}:
                    raise
                yield Omission(name=f"{shape.title}: {it.name}", reason=error.reason.replace(f"{folder}/", ""))
        yield from _raced(shape, entered, prompt, run.size(FULL, QUICK))
    shutil.rmtree(folder)


def _raced(shape: Shape, entered: Sequence[Entered], prompt: Path, size: Size) -> Iterator[Figure]:
    for work in WORKS:
        results = [Result(it.contender) for it in entered]
        commands = [work.command(it.ask) for it in entered]
        requests = [it.ask for it in entered]
        yield from speeds(shape, work, turns(results, requests, commands, rounds=size.rounds, limit_s=size.limit_s))
    yield from _together(shape, entered, size)
    # Some engines return the logits of all tokens when they are asked for any, so memory is read before that.
    memory = {it.contender.name: it.ask("memory") for it in entered}
    for title, key in (("peak RSS", "peak_bytes"), ("anonymous memory", "anonymous_bytes")):
        sides = {name: round(found[key] / MB, 1) for name, found in memory.items()}
        note = f"{INT4}; of a Python process"
        yield Figure(
            name=f"{shape.title}: {title}", value=sides[INT4], unit="MB", sides=sides, sides_unit="MB", note=note
        )
    logits = {it.contender.name: outputs(it.ask, prompt)[0] for it in entered}
    close = {name: round(cosine(logits[PYTORCH], found), 5) for name, found in logits.items()}
    least_close = min(close[it] for it in RECIPES)
    yield Figure(name=f"{shape.title}: cosine of logits to PyTorch", value=least_close, sides=close)


def _together(shape: Shape, entered: Sequence[Entered], size: Size) -> Iterator[Figure]:
    """Yield the tokens a second of several conversations at a time, as multiples of one's."""
    for it in (it for it in entered if it.contender.kind == "edgeml"):
        commands = [f"{verb} {TOGETHER_TOKENS} {WRITTEN_TOKENS}" for verb in ("decode", "together")]
        results = [Result(it.contender) for _ in commands]
        one, several = turns(results, [it.ask] * 2, commands, rounds=size.rounds, limit_s=size.limit_s)
        sides = {"one": round(1000 / one.p50_ms, 2), "together": round(1000 * ROWS_MAX / several.p50_ms, 2)}
        yield Figure(
            name=f"{shape.title}: {ROWS_MAX} conversations against one, {it.contender.name}",
            value=ROWS_MAX * ratio(one, several),
            unit="x",
            sides=sides,
            sides_unit="tokens/s",
            host=host.of_rounds([max(busy) for busy in zip(one.other_cores, several.other_cores, strict=True)]),
            aim=least(2.5),
        )


def speeds(shape: Shape, work: Work, results: Sequence[Result]) -> Iterator[Figure]:
    """Yield the tokens a second of all contenders, and edgeml's as multiples of the rivals'."""
    by_name = {it.contender.name: it for it in results}
    per_s = {name: round(1000 * work.counted / it.p50_ms, 2) for name, it in by_name.items()}
    load = host.of_rounds([max(it) for it in zip(*(it.other_cores for it in results), strict=True)])
    best = max(RECIPES, key=per_s.__getitem__)
    aims = shape.decode if work.verb == "decode" else {}
    yield Figure(
        name=f"{shape.title}: {work.title}",
        value=per_s[best],
        unit="tokens/s",
        sides=per_s,
        sides_unit="tokens/s",
        host=load,
        aim=aims.get(""),
        note=f"{len(results[0].medians_ms)} rounds; {best}",
    )

    def against(ours: str, rival: str, called: str, aim: Aim | None) -> Figure:
        return Figure(
            name=f"{shape.title}: {work.title}, {called}",
            value=ratio(by_name[rival], by_name[ours]),
            unit="x",
            sides={name: per_s[name] for name in (ours, rival)},
            sides_unit="tokens/s",
            host=load,
            aim=aim,
        )

    for (ours, rival), aim in work.aims.items():
        if rival in by_name:
            yield against(ours, rival, f"{ours} against {rival}", aim)
    for rival in (PYTORCH, OPTIMUM):
        if rival in by_name:
            yield against(best, rival, f"against {rival}", aims.get(rival))
    fastest = max((name for name in by_name if name not in RECIPES), key=per_s.__getitem__)
    yield against(best, fastest, f"against {FASTEST}", work.fastest)
