"""`benchmarks/language.py`: which contender is held against which rival, and what an engine's refusal does."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from export_parts.race import Contender, NotStartedError, Result, running
from harness import rivals
from language_parts import comparison, contenders, dialogpt_medium, shapes, smollm2_135m
from language_parts.contenders import CTRANSLATE2, FP32, INT4, INT8, INT8_BLOCKS, LLAMA_CPP, OPTIMUM, PYTORCH

#: Milliseconds of a token, or of a prompt. CTranslate2 is the fastest rival, edgeml in int8 the fastest of all.
TIMES_MS = {PYTORCH: 80, OPTIMUM: 40, LLAMA_CPP["Q4_0"]: 22, LLAMA_CPP["Q8_0"]: 30, CTRANSLATE2: 18} | {
    INT4: 20,
    INT8: 10,
    INT8_BLOCKS: 15,
    FP32: 50,
}
DECODE, LATER, PREFILL = comparison.WORKS


def results(*left_out: str) -> list[Result]:
    """Three equal rounds of each contender."""
    return [
        Result(Contender(name=name, kind="", path=Path()), None, [float(ms)] * 3, [0.0] * 3)
        for name, ms in TIMES_MS.items()
        if name not in left_out
    ]


def figures(shape: shapes.Shape, work: comparison.Work, *left_out: str) -> dict:
    """The figures of a work, by what follows the shape and the work in their names."""
    found = list(comparison.speeds(shape, work, results(*left_out)))
    assert all(it.name.startswith(f"{shape.title}: {work.title}") for it in found)
    return {it.name.removeprefix(f"{shape.title}: {work.title}").removeprefix(", "): it for it in found}


def test_speeds_are_tokens_a_second():
    """A run that writes makes one token, a run that reads a prompt takes all of its tokens."""
    assert figures(smollm2_135m.SHAPE, DECODE)[""].value == 100
    read = figures(smollm2_135m.SHAPE, PREFILL)[""]
    assert read.value == 25_600
    assert read.sides[PYTORCH] == 3200
    assert read.sides.keys() == TIMES_MS.keys()


def test_edgeml_is_held_against_llama_cpp_at_the_same_bits():
    """Four bits against Q4_0, eight against Q8_0: one form to write, the other to read prompts, which has own aims."""
    for work, bounds in ((DECODE, (1.1, 1.1, None)), (LATER, (1.1, 1.1, None)), (PREFILL, (0.8, None, 2))):
        found = figures(smollm2_135m.SHAPE, work)
        pairs = ((INT4, "Q4_0"), (INT8_BLOCKS, "Q8_0"), (INT8, "Q8_0"))
        held = [found[f"{ours} against {LLAMA_CPP[rival]}"] for ours, rival in pairs]
        assert [it.value for it in held] == [1.1, 2, 3]
        assert tuple(it.aim and it.aim.bound for it in held) == bounds


def test_the_fastest_rival_is_none_of_edgemls():
    """Its figure keeps its name, whichever rival it is."""
    fastest = figures(smollm2_135m.SHAPE, DECODE)["against the fastest rival"]
    assert fastest.sides.keys() == {INT8, CTRANSLATE2}
    assert (fastest.value, fastest.aim.bound) == (1.8, 1)
    without = figures(smollm2_135m.SHAPE, DECODE, CTRANSLATE2)["against the fastest rival"]
    assert without.sides.keys() == {INT8, LLAMA_CPP["Q4_0"]}


def test_a_shape_has_aims_of_its_own_for_decoding():
    """DialoGPT-medium has three, none of them for prompts."""
    found = figures(dialogpt_medium.SHAPE, DECODE)
    aims = [found[name].aim.bound for name in ("", f"against {PYTORCH}", f"against {OPTIMUM}")]
    assert aims == [60, 4, 2]
    assert figures(dialogpt_medium.SHAPE, PREFILL)[""].aim is None
    assert figures(smollm2_135m.SHAPE, DECODE)[""].aim is None


def test_a_rival_that_is_missing_leaves_its_ratios_out():
    """The others stay."""
    found = figures(smollm2_135m.SHAPE, DECODE, *LLAMA_CPP.values(), OPTIMUM)
    assert found.keys() == {"", f"against {PYTORCH}", "against the fastest rival"}


def test_a_converter_that_fails_gives_its_last_line_as_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """That is what the report says of the engine."""
    (tmp_path / "converter.py").write_text("raise NotImplementedError('this model is not supported')")
    monkeypatch.setattr(rivals, "REQUIREMENTS", tmp_path)
    with pytest.raises(contenders.RefusedError, match=r"^NotImplementedError: this model is not supported$"):
        contenders._convert(Path(sys.executable), "converter.py", [])


def test_a_process_that_cannot_load_its_model_is_named_with_its_log(tmp_path: Path):
    """Its last line is the reason; an illegal instruction leaves no line, but its signal."""
    starts = {
        "raise ValueError('no such model')": "exit code 1: ValueError: no such model",
        "import os, signal; os.kill(os.getpid(), signal.SIGILL)": "exit code -4",
    }
    for number, (program, reason) in enumerate(starts.items()):
        runner = tmp_path / f"runner{number}.py"
        runner.write_text(program)
        entered = Contender(name=PYTORCH, kind="pytorch", path=tmp_path, runner=runner)
        with (
            pytest.raises(NotStartedError, match="PyTorch eager fp32 didn't start") as error,
            running(entered, tmp_path / "prompt.npz", threads=1),
        ):
            pass
        assert error.value.reason == reason


def test_shapes_have_room_for_a_prompt_and_an_answer():
    """In both kinds of run."""
    wanted = comparison.PROMPT_TOKENS + 2 * comparison.WRITTEN_TOKENS
    assert wanted <= shapes.CONTEXT_TOKENS
    for shape in (smollm2_135m.SHAPE, dialogpt_medium.SHAPE):
        sizes = {**shape.sizes, **shape.tiny}
        assert sizes.get("n_positions", sizes.get("max_position_embeddings")) >= shapes.CONTEXT_TOKENS


def test_compiled_rivals_have_requirements():
    """A build's options belong to an environment that exists."""
    assert rivals.BUILDS.keys() <= {it.stem for it in rivals.REQUIREMENTS.glob("*.txt")}
