"""Drift from the export to the fleet's status: a real classifier of digits, and texts asked of the real agent.

What a device sees and answers is judged by the card's baseline. Nothing of what was asked gets out.
"""

from __future__ import annotations

import base64
import itertools
import json
import runpy
from io import BytesIO
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from PIL import Image, ImageOps

from edgeml import repository
from edgeml.check.baseline import observe
from edgeml.fleet import status
from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml.repository.deployments import deploy
from edgeml_agent.serve.drift import DriftMonitor
from edgeml_core.drift import Drift
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Image as Picture
from edgeml_runtime.tasks import Text
from edgeml_runtime.unpack import unpacked
from support import tiny_models
from support.delivery_site import DEVICE, Program, site, until
from support.plain_http import NO_TLS
from support.task_models import mood

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"
SECRET = "xylophone-4711"
#: The agent, which tells of drift at once.
IMPATIENT = """
import sys
from edgeml_agent import cli
from edgeml_agent.update import daemon
daemon.DRIFT_REPORT_EVERY_S = 0.2
sys.exit(cli.main())
"""
ROWS = 300
#: A burst of some hundred is observed whole; what is unlike has to come in it, too.
LIKE = 80
WORDS = ("it", "works", "well", "bad", "quiet", "the", "cow", "is", "field", "and")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, list[bytes]]:
    """The example's classifier, judged on half of the rows, drawn at random; and the pictures of the others."""
    folder = tmp_path_factory.mktemp("digits")
    runpy.run_path(str(EXAMPLE))["write_rows"](folder)
    rows = (folder / "evaluate.jsonl").read_text().splitlines()
    rows = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]  # they count from 0 to 9 over and over
    (folder / "half.jsonl").write_text("\n".join(rows[::2]))
    request = ExportRequest(
        model=f"{EXAMPLE}:digits",
        task="image-classification",
        targets=("x86-gateway",),
        formats=("onnx",),
        calibrate=folder / "calibrate.jsonl",
        evaluate=folder / "half.jsonl",
        output=folder / "out",
    )
    (exported,) = export(request)
    return exported, [(folder / json.loads(row)["image"]).read_bytes() for row in rows[1::2]]


def watched(exported: Exported, pictures: list[bytes]) -> dict[str, str]:
    """The grades of each quantity after a device was asked about the pictures, none of them too fast."""
    seconds = itertools.count()
    with unpacked(exported.path) as bundle:
        model = Model.open(bundle.folder, bundle.manifest)
        watch = DriftMonitor(bundle.manifest, bundle.manifest.card.baseline, lambda: float(next(seconds)))
        model.observed = watch
        for picture in pictures:
            model.predict([Picture(picture)])
        model.close()
    return {name: it.grade for name, it in watch.shifts()[0].items()}


def inverted(picture: bytes) -> bytes:
    out = BytesIO()
    ImageOps.invert(Image.open(BytesIO(picture))).save(out, "PNG")
    return out.getvalue()


def test_rows_like_those_of_the_evaluation_are_fine(digits):
    """Digits that it wasn't judged on, from the same hands."""
    exported, pictures = digits
    baseline = exported.manifest.card.baseline
    assert (baseline.rows, baseline.rows_from) == (len(pictures) + 1, "evaluation")
    assert set(baseline.quantities) == {"label", "score", "margin", "brightness", "contrast"}
    assert set(watched(exported, pictures).values()) == {"ok"}


def test_a_camera_that_inverts_shows(digits):
    """In what is seen, and in what is made of it."""
    exported, pictures = digits
    found = watched(exported, [inverted(picture) for picture in pictures])
    assert found["brightness"] == found["label"] == "major"


def texts(seed: int) -> list[str]:
    """Sentences of three to twelve words."""
    drawn = np.random.default_rng(seed)
    return [" ".join(drawn.choice(WORDS, drawn.integers(3, 12, endpoint=True))) for _ in range(ROWS)]


def judged(folder: Path) -> Path:
    """A bundle of a real classifier of texts whose card has the baseline of some of them."""
    draft, path = folder / "draft.edgeml", folder / "mood.edgeml"
    mood(draft, ("mood", "1.0", "x86-vnni"))
    with unpacked(draft) as bundle:
        model = Model.open(bundle.folder, bundle.manifest)
        with observe(model) as seen:
            for text in texts(seed=1):
                model.predict([Text(text)])
        model.close()
        card = msgspec.structs.replace(bundle.manifest.card, baseline=seen.baseline("evaluation"))
        files = {entry.path: (bundle.folder / entry.path).read_bytes() for entry in bundle.manifest.files}
        tiny_models.write(path, msgspec.structs.replace(bundle.manifest, card=card), files)
    return path


def test_the_fleet_hears_of_drift_and_of_no_content(tmp_path: Path):
    """Asked through two doors: grades go over MQTT, figures stand on the metrics page, and no word anywhere."""
    with site(tmp_path) as made:
        repository.publish(made.repo, [judged(tmp_path)])
        deploy(made.repo, "mood", "1.0", selector="")
        made.start_host()
        made.programs.append(Program(tmp_path / "agent.log", "-c", IMPATIENT, "run", "--config", str(made.config)))
        made.observer.await_report(state="active", version="1.0")

        def told() -> Drift | None:
            return made.observer.states()[-1].models["mood"].drift

        with httpx.Client(base_url=f"http://{made.http}", timeout=60, trust_env=False, verify=NO_TLS) as client:
            for text in texts(seed=2)[:LIKE]:
                assert client.post("/v1/models/mood/predict", json={"text": text}).is_success
            until(told, "a grade")
            assert told().summary == "ok"
            for text in texts(seed=3):
                data = [f"{text} {SECRET} {text} bad bad"]
                tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": data}
                assert client.post("/v2/models/mood/infer", json={"inputs": [tensor]}).is_success
            until(lambda: {"tokens", "label"} <= told().psi.keys(), "what moved")
            page = client.get("/metrics").text
        assert told().grade == "major"
        until(lambda: status.status(made.repo).drifted, "the fleet's status")
        (drifted,) = status.status(made.repo).drifted
        assert (drifted.device, drifted.name, drifted.version) == (DEVICE, "mood", "1.0")
        assert all(f'edgeml_drift_psi{{model="mood",quantity="{name}"}}' in page for name in told().psi)
        log = (tmp_path / "agent.log").read_text()
        assert "major: " in log
        state = made.observer.topics.state(DEVICE)
        said = b"".join(payload for topic, payload in made.observer.heard if topic == state) + (page + log).encode()
        for store in (made.device / "store", made.repo):
            said += b"".join(path.read_bytes() for path in store.rglob("*.db*"))
        assert not any(
            part.encode() in said for part in (SECRET, "xylophone", base64.b64encode(SECRET.encode()).decode())
        )
        assert len(made.observer.states()) < 20  # it isn't told for every figure
