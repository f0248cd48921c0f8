"""Torch modules from a function or a `.pt2` file: the same answers to any input, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeml import inference
from edgeml.exporters import conversion_error, exported_program, fp32, function
from edgeml.exporters.source import Source
from edgeml.oracle.torch_modules import ModuleJudge
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest, ModelInMemory
from edgeml_core.errors import UsageError

EXAMPLE = torch.linspace(-1, 1, 8)[None]
#: The end of a refusal's message that names this file.
HERE = r"at test_modules\.py:\d+ in \w+"


class Linear(torch.nn.Module):
    """A layer before the step that a test is about; forward is the test's own."""

    def __init__(self, step: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(8, 3)
        self.register_buffer("total", torch.zeros(3))
        self.count = 0
        self.step = step

    def forward(self, x: torch.Tensor) -> Any:
        """Run the step."""
        return self.step(self, x)


class Product(torch.nn.Module):
    """Of two inputs."""

    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return x * factor


def branch(it: Any, x: torch.Tensor) -> torch.Tensor:
    return it.layer(x) if x.max() > 1000 else -it.layer(x)


def halving(it: Any, x: torch.Tensor) -> torch.Tensor:
    while x.norm() > 1:
        x = x / 2
    return it.layer(x)


def number(it: Any, x: torch.Tensor) -> torch.Tensor:
    return it.layer(x) + int(x.abs().sum().item())


def sliced(it: Any, x: torch.Tensor) -> torch.Tensor:
    return it.layer(x) + x[:, : int((x > 0).sum())].sum()


def with_numpy(it: Any, x: torch.Tensor) -> torch.Tensor:
    return it.layer(torch.from_numpy(np.tanh(x.numpy())))


def summed(it: Any, x: torch.Tensor) -> torch.Tensor:
    it.total.add_(it.layer(x)[0].detach())
    return it.layer(x) + it.total


def highest(it: Any, x: torch.Tensor) -> torch.Tensor:
    it.total = torch.maximum(it.total, it.layer(x)[0])
    return it.layer(x) + it.total


def counted(it: Any, x: torch.Tensor) -> torch.Tensor:
    it.count += 1
    return it.layer(x) + it.count


def dropped(it: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.dropout(it.layer(x), 0.5, training=True)


def noisy(it: Any, x: torch.Tensor) -> torch.Tensor:
    return it.layer(x) + torch.randn(3)


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x


def where(it: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the hint for a branch advises, in place, with an operator of its own and two outputs."""
    x.mul_(2)
    found = it.layer(_Square.apply(x))
    return {"found": torch.where(x.max() > 1, found, -found), "twice": 2 * found}


def one_row(it: Any, x: torch.Tensor) -> torch.Tensor:
    return it.layer(x.reshape(1, 8))


def mixing(it: Any, x: torch.Tensor) -> torch.Tensor:
    return it.layer(x - x.mean(dim=0) / 2)


def loaded(step: Callable[[Any, torch.Tensor], Any], work: Path, example: Any = EXAMPLE) -> Source:
    return function.of_model(ModelInMemory(name=step.__name__, model=Linear(step), example=example), None, work)


@pytest.mark.parametrize("step", [branch, halving, number, sliced])
def test_code_that_follows_values_is_refused(step: Callable[[Any, torch.Tensor], Any], tmp_path: Path):
    """Also where no input of the checks goes the other way; the refusal names the line."""
    source = loaded(step, tmp_path)
    with pytest.raises(UsageError, match=f"Python code follows the values of its input, {HERE}") as caught:
        fp32.write(source, "onnx", tmp_path)
    assert "torch.where" in caught.value.hint


def test_code_that_leaves_torch_is_refused(tmp_path: Path):
    """NumPy's numbers would be constants."""
    source = loaded(with_numpy, tmp_path)
    with pytest.raises(UsageError, match=f"leaves torch for NumPy, {HERE}"):
        fp32.write(source, "onnx", tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("step", [branch, with_numpy])
def test_code_that_cannot_be_captured_is_refused_in_tflite(step: Callable[[Any, torch.Tensor], Any], tmp_path: Path):
    """By the same words as in ONNX."""
    source = loaded(step, tmp_path)
    with pytest.raises(UsageError, match=HERE):
        fp32.write(source, "tflite", tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.ones(1, 8, dtype=torch.int64), "'input' is int64"),
        ((EXAMPLE, torch.tensor(2.0)), "'input_1' has no axis"),
    ],
)
def test_example_that_tflite_would_change_is_refused(example: Any, message: str, tmp_path: Path):
    """A bundle takes its example as it is."""
    model = torch.nn.Identity() if isinstance(example, torch.Tensor) else Product()
    given = ModelInMemory(name="m", model=model, example=example)
    with pytest.raises(UsageError, match=message):
        fp32.write(function.of_model(given, None, tmp_path), "tflite", tmp_path)


@pytest.mark.nightly
def test_whole_numbers_of_32_bits_are_taken_in_tflite(tmp_path: Path):
    """As the hint advises; forward gets them as int64."""
    model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(32, 2))
    given = ModelInMemory(name="m", model=model, example=torch.arange(8, dtype=torch.int32)[None])
    request = ExportRequest(
        model="m", targets=("x86-vnni",), formats=("tflite",), quantize="none", output=tmp_path, in_memory=given
    )
    (exported,) = export(request)
    assert exported.manifest.card.oracle
    expected = model(torch.tensor([[3] * 8])).detach().numpy()
    (answer,) = inference.run(exported.path, {"inputs": {"input": [[3] * 8]}})
    np.testing.assert_allclose(answer["outputs"]["output"], expected, rtol=1e-4)


@pytest.mark.parametrize("step", [summed, highest, counted, dropped, noisy])
def test_module_with_two_answers_to_one_input_is_refused(step: Callable[[Any, torch.Tensor], Any], tmp_path: Path):
    """A bundle would have the first one only."""
    with pytest.raises(UsageError, match="two answers to one input: output 'output'"):
        loaded(step, tmp_path)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda it, x: {"a": it.layer(x), "b": {"c": x}}, "output 'b' is a dict, no tensor"),
        (lambda it, x: (it.layer(x), [x, x]), "output 'output_1' is a list, no tensor"),
        (lambda it, x: (it.layer(x), None), "output 'output_1' is None, no tensor"),
        (lambda it, x: float(it.layer(x).sum()), "output 'output' is a float, no tensor"),
        (lambda it, x: torch.fft.fft(x), "output 'output' has the data type complex64"),
        (lambda it, x: it.layer(x).bfloat16(), "output 'output' has the data type bfloat16"),
    ],
)
def test_answer_that_is_no_tensor_of_a_bundle_is_refused(
    answer: Callable[[Any, torch.Tensor], Any], message: str, tmp_path: Path
):
    """By its name and type."""
    with pytest.raises(UsageError, match=message):
        loaded(answer, tmp_path)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (([EXAMPLE, EXAMPLE],), "input 'input' is a list, no tensor"),
        ((EXAMPLE, 2), "input 'input_1' is an int, no tensor"),
        (None, "the example inputs are None, no tensors"),
        (torch.zeros(1, 8, dtype=torch.complex64), "data type complex64"),
    ],
)
def test_example_that_is_no_tensor_is_refused(example: Any, message: str, tmp_path: Path):
    """By its name and type."""
    with pytest.raises(UsageError, match=message):
        loaded(branch, tmp_path, example)


@pytest.mark.parametrize("step", [one_row, mixing])
def test_module_that_takes_no_batch_keeps_its_examples_batch_size(
    step: Callable[[Any, torch.Tensor], Any], tmp_path: Path
):
    """A bundle of any batch size would answer each row otherwise than alone."""
    source = loaded(step, tmp_path)
    assert [spec.shape for spec in (*source.signature.inputs, *source.signature.outputs)] == [(1, 8), (1, 3)]
    assert source.notes == ("the model takes its example's batch size only",)


def test_module_is_judged_on_other_inputs_than_its_example(tmp_path: Path):
    """On larger and smaller ones and on two rows; the hint for a branch works."""
    model = Linear(where)
    given = ModelInMemory(name="where", model=model, example=EXAMPLE)
    request = ExportRequest(
        model="where", targets=("x86-vnni",), formats=("onnx",), quantize="none", output=tmp_path, in_memory=given
    )
    (exported,) = export(request)
    found = exported.manifest.card.oracle
    assert found
    assert (found.library, found.items) == (f"torch {torch.__version__}", 7)
    for rows in (EXAMPLE / 8, torch.cat([EXAMPLE, -3 * EXAMPLE])):
        expected = model(rows.clone())["found"].detach().numpy()
        (answer,) = inference.run(exported.path, {"inputs": {"input": rows.numpy()}})
        np.testing.assert_allclose(answer["outputs"]["found"], expected, rtol=1e-4)


def test_answers_that_are_no_numbers_are_not_compared(tmp_path: Path):
    """The original may have no answer to an input of the judge."""
    source = loaded(lambda it, x: it.layer(x.log()), tmp_path, EXAMPLE + 2)
    judge = source.judge
    assert isinstance(judge, ModuleJudge)
    answers = judge.reply(judge.items).answers
    assert answers[0].answer is not None
    assert answers[1].error == "the answer is not finite"


def saved(step: Callable[[Any, torch.Tensor], Any], path: Path, *example: Any) -> Path:
    torch.export.save(torch.export.export(Linear(step).eval(), example or (EXAMPLE,)), path)
    return path


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (summed, "two answers to one input"),
        (noisy, "two answers to one input"),
        (lambda it, x: {"a": it.layer(x), "b": {"c": x}}, "output 'b' is a dict"),
        (lambda it, x: torch.fft.fft(x), "complex64"),
    ],
)
def test_program_that_no_bundle_can_answer_for_is_refused(
    step: Callable[[Any, torch.Tensor], Any], message: str, tmp_path: Path
):
    """As a function's module is."""
    with pytest.raises(UsageError, match=message):
        exported_program.load(saved(step, tmp_path / "m.pt2"), None)


def test_program_with_an_input_that_is_no_tensor_is_refused(tmp_path: Path):
    """By its place."""
    path = saved(lambda it, xs: it.layer(xs[0] + xs[1]), tmp_path / "m.pt2", [EXAMPLE, EXAMPLE])
    with pytest.raises(UsageError, match="input 'number 1' is a list, no tensor"):
        exported_program.load(path, None)


def test_program_whose_lengths_are_compared_is_read(tmp_path: Path):
    """A filter of rows saves the bounds of its unknown length."""
    source = exported_program.load(saved(lambda it, x: it.layer(x)[x[:, 0] > 0], tmp_path / "m.pt2"), None)
    assert source.signature.outputs[0].shape == (-1, 3)


@pytest.mark.parametrize(
    ("capture_with", "name"),
    [
        pytest.param(torch.export.export, "L['x']", marks=pytest.mark.nightly),
        (torch.onnx.export, "inputs['x']"),
    ],
)
def test_length_that_the_code_fixes_is_named(capture_with: Callable[..., object], name: str, tmp_path: Path):
    """Torch's own messages are about ranges that its caller gave."""
    model = Linear(lambda it, x: it.layer(x) + torch.ones(2, 3))
    free: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)}
    if capture_with is torch.onnx.export:
        free |= {"dynamo": True, "f": tmp_path / "m.onnx", "verbose": False}
    with pytest.raises(Exception, match=r"Constraints violated|Failed to export") as caught:
        capture_with(model, (torch.cat([EXAMPLE, EXAMPLE]),), **free)
    found = conversion_error.unsupported("onnx", caught.value)
    assert found.message == f"can't convert this model to ONNX: its code fixes the length of axis 0 of {name} to 2"
