"""Models with the faults that people's have: a clear no by the documented exit code, or the same answers.

Each input is made from the seed and its number alone: EDGEML_FUZZ_SEED=1 pytest tests/fuzz/test_models.py -k 17
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from PIL import Image

from edgeml import inference
from edgeml.bundles import Bundle
from edgeml.exporters import function
from edgeml_runtime.verify.golden import cosine
from fuzz import campaign, exporting, model_faults
from fuzz.exporting import Ended
from support import sounds
from support.scale import scaled

INPUTS: Final = scaled(200, 5)
ARGUMENTS: Final = ["--target", "x86-vnni", "-o", "out"]
#: Of four rows, as a share of the inputs has them.
CALIBRATION: Final = "rows.jsonl"
#: What an input is exported to; text models have a TFLite form for each of several lengths, which takes too long.
FORMS: Final = {
    "onnx": ["--format", "onnx", "--quantize", "none"],
    "quantized": ["--format", "onnx", "--quantize", "auto", "--calibrate", CALIBRATION],
    "tflite": ["--format", "tflite", "--quantize", "none"],
}
#: Of the inputs, in percent.
FORM_SHARES: Final = (60, 25, 15)
NO_TFLITE: Final = ("text", "vectors", "sound")
#: The documented codes but `internal`: an unexpected exception is a fault of edgeml.
CODES: Final = {0, 1, 2, 4, 6}
#: Characters of an error: a screen's.
MESSAGE_MAX_CHARS: Final = 1500
#: Between an fp32 form and its original.
TOLERANCE: Final = 1e-3
#: Between scores of an int8 form and those of its original, whose layers are tiny and random.
QUANTIZED_TOLERANCE: Final = 0.1
COSINE_MIN: Final = 0.95
TEXTS: Final = ("The pump in hall two has stopped.", "Wheat needs less water than rice.", "")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The name of each base, whole."""
    folder = tmp_path_factory.mktemp("bases")
    return {base: model_faults.build(base, folder / base) for base in model_faults.BASES}


@pytest.mark.parametrize("number", range(INPUTS))
def test_a_faulty_model_is_refused_clearly_or_answers_as_its_original(number: int, bases, tmp_path: Path):
    """No traceback, no hang, nothing left behind, no code run."""
    rng = Random(f"{campaign.SEED}-{number}")  # noqa: S311 -- repeatable
    base, fault = model_faults.drawn(rng)
    named, options = prepared(base, fault, bases, tmp_path, rng)
    as_json = rng.random() < 0.5
    form = drawn_form(base, rng)
    (tmp_path / CALIBRATION).write_text("\n".join(json.dumps(calibration_row(base, n, tmp_path)) for n in range(4)))
    begun = time.monotonic()
    options += ["--json"] if as_json else []
    ended = exporting.run(tmp_path, "export", named, *ARGUMENTS, *FORMS[form], *options)
    what = f"{base} {fault.__name__} {form} (seed {campaign.SEED}, number {number})"
    code = judged(ended, as_json=as_json)
    campaign.part(f"models, {form}").count(f"{ended.code} {code}".strip(), time.monotonic() - begun, what)
    print(what, ended)
    assert not list(tmp_path.rglob(model_faults.MARKER)), "code of a pickle ran"
    assert not list(tmp_path.rglob(".export-*"))
    bundles = list((tmp_path / "out").glob("*.edgeml"))
    assert len(bundles) == (ended.code == 0)
    if bundles:
        compare(base, named, bundles[0], is_quantized=form == "quantized")


def drawn_form(base: str, rng: Random) -> str:
    """Draw what the input is exported to."""
    (form,) = rng.choices([*FORMS], FORM_SHARES)
    return "onnx" if form == "tflite" and base in NO_TFLITE else form


def calibration_row(base: str, number: int, folder: Path) -> dict[str, Any]:
    """Make a row that the base takes; its file lies in the folder."""
    random = np.random.default_rng(number)
    match base:
        case "picture":
            Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / f"{number}.png")
            return {"image": f"{number}.png"}
        case "sound":
            (folder / f"{number}.wav").write_bytes(sounds.wav(sounds.tone(0.5 + number / 4)))
            return {"audio": f"{number}.wav"}
        case "text" | "vectors" | "writer":
            return {"text": f"{TEXTS[0]} {number} {TEXTS[1]}"}
        case _:
            name, shape = model_faults.INPUTS[base]
            return {"inputs": {name: random.normal(size=shape).round(3).tolist()}}


def prepared(
    base: str, fault: model_faults.Fault, bases: dict[str, str], folder: Path, rng: Random
) -> tuple[str, list[str]]:
    """Copy a base, give it a fault, and return the model's name and further options."""
    original = Path(bases[base].partition(":")[0])
    root = original if original.is_dir() else original.parent
    copy = folder / base
    shutil.copytree(root, copy)
    named = bases[base].replace(str(root), str(copy))
    given = fault(copy, rng)
    if given is not None and given.startswith("--"):
        return named, [given]
    return (named if given is None else given), []


def judged(ended: Ended, *, as_json: bool) -> str:
    """Check an end against the documentation, and return the error's code."""
    assert ended.code in CODES, ended
    assert "Traceback" not in ended.stdout + ended.stderr, ended
    if as_json:
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        error = lines[-1].get("error")
        assert (error is None) == (ended.code == 0), ended
        message, hint, code = (error["message"], error["hint"], error["code"]) if error else ("", "", "")
    else:
        last = ended.stderr.splitlines()
        errors = [line for line in last if line.startswith("error[")]
        assert len(errors) == (ended.code != 0), ended
        message = errors[0] if errors else ""
        code = message.partition("[")[2].partition("]")[0]
        hint = next((line.removeprefix("hint: ") for line in last if line.startswith("hint: ")), "")
    if ended.code:
        assert hint, ended
        assert "\n" not in message, ended
        assert len(message) <= MESSAGE_MAX_CHARS, ended
    return code


def compare(base: str, named: str, bundle: Path, *, is_quantized: bool) -> None:
    """Compare a bundle's answers with those of the original's own library."""
    match base:
        case "text":
            asked = transformers.pipeline("text-classification", model=named, top_k=None)
            for text in TEXTS:
                same_scores(asked(text), inference.run(bundle, {"text": text}), is_quantized=is_quantized)
        case "picture":
            asked = transformers.pipeline("image-classification", model=named, top_k=None)
            pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            found = inference.run(bundle, {"image": encoded(data.getvalue())})
            same_scores(asked(Image.fromarray(pixels)), found, is_quantized=is_quantized)
        case "sound":
            asked = transformers.pipeline("audio-classification", model=named, top_k=None)
            tone = sounds.tone(1.3)
            heard = np.frombuffer(sounds.wav(tone)[44:], np.int16) / np.float32(32768)
            found = inference.run(bundle, {"audio": encoded(sounds.wav(tone))})
            same_scores(asked(heard), found, is_quantized=is_quantized)
        case "vectors":
            tokenizer = transformers.AutoTokenizer.from_pretrained(named)
            model = transformers.AutoModel.from_pretrained(named).eval()
            for text in TEXTS[:2]:
                with torch.inference_mode():
                    expected = model(**tokenizer(text, return_tensors="pt"))[0].mean(dim=1)[0].numpy()
                (answer,) = inference.run(bundle, {"text": text})
                same_numbers(answer["embedding"], expected, is_quantized=is_quantized)
        case "writer":
            asked = transformers.pipeline("text-generation", model=named)
            for text in TEXTS[:2]:
                expected = asked(text, max_new_tokens=6, do_sample=False, return_full_text=False)[0]["generated_text"]
                (answer,) = inference.run(bundle, {"prompt": text, "max_new_tokens": 6, "temperature": 0})
                assert answer["text"] == expected or is_quantized
        case _:
            compare_tensors(named, bundle, is_quantized=is_quantized)


def encoded(data: bytes) -> str:
    """Encode a file as requests have it."""
    return base64.b64encode(data).decode()


def same_numbers(found: Any, expected: Any, *, is_quantized: bool) -> None:
    """Compare two lists of numbers: by their direction where one was quantized."""
    ours, theirs = np.asarray(found).ravel(), np.asarray(expected).ravel()
    if is_quantized:
        assert cosine(ours, theirs) >= COSINE_MIN
    else:
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def same_scores(expected: list[Any], answers: list[Any], *, is_quantized: bool) -> None:
    """Compare the scores of all labels."""
    (answer,) = answers
    scores = {it["label"]: it["score"] for it in (expected[0] if isinstance(expected[0], list) else expected)}
    found = {it["label"]: it["score"] for it in answer["labels"]}
    assert found == pytest.approx(scores, abs=QUANTIZED_TOLERANCE if is_quantized else TOLERANCE), (found, scores)


def compare_tensors(named: str, bundle: Path, *, is_quantized: bool) -> None:
    """Compare on numbers: the file's own runtime, or the module that a function returns."""
    (spec,) = Bundle.open(bundle).manifest.inputs
    shape = tuple(1 if length == -1 else length for length in spec.shape)
    given = np.sin(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)
    (answer,) = inference.run(bundle, {"inputs": {spec.name: given}})
    (found,) = list(answer["outputs"].values())[:1]
    if named.endswith(".onnx"):
        expected = onnxruntime.InferenceSession(named).run(None, {spec.name: given})[0]
    elif named.endswith(".pt2"):
        expected = torch.export.load(named).module()(torch.from_numpy(given)).detach().numpy()
    else:
        path, _, name = named.rpartition(":")
        model, _ = function._call(Path(path), name)
        is_torch = isinstance(model, torch.nn.Module)
        answered = model.eval()(torch.from_numpy(given)) if is_torch else model.predict(given)
        first = answered[0] if isinstance(answered, tuple) else answered
        expected = first.detach().numpy() if is_torch else first
    same_numbers(found, expected, is_quantized=is_quantized)
