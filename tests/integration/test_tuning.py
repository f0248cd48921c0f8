"""A release tuned on this machine: a real sweep in its real child process, and the server that then runs so."""

import asyncio
import contextlib
import json
import math
import threading
import zipfile

import msgspec
import numpy as np
import pytest
from onnx import helper
from onnxruntime.quantization import quantize_dynamic
from tests.integration.test_serving import server
from tests.support import tiny_models
from tests.support.delivery_site import MODEL, site, until
from tests.support.own_process import in_own_process

from edgeml_agent.probe import autotune
from edgeml_agent.probe.prober import ChildProber
from edgeml_agent.serve.models import Models
from edgeml_agent.store import tuning
from edgeml_agent.system import memory
from edgeml_core import golden, processing
from edgeml_core import manifest as manifests
from edgeml_core.errors import DeviceError
from edgeml_runtime import engines, tensors
from edgeml_runtime.bench import batching
from edgeml_runtime.engines import ort
from edgeml_runtime.verify import golden as golden_check

WIDTH = 1024
LAYERS = 4
MIB = 1024**2
WEIGHTS_BYTES = LAYERS * WIDTH * WIDTH
WEIGHTS_NAME = "model.onnx.data"


@pytest.fixture(scope="module")
def layered(tmp_path_factory):
    """The folder and manifest of a bundle whose model takes a row through 4 MiB of int8 weights."""
    folder = tmp_path_factory.mktemp("layered")
    (folder / "float.onnx").write_bytes(_graph())
    quantize_dynamic(folder / "float.onnx", folder / "model.onnx", use_external_data_format=True)
    return _bundle(folder, "model.onnx", WEIGHTS_NAME)


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """The same in fp32, 16 MiB: what a run costs is reading the weights, whatever the number of rows."""
    folder = tmp_path_factory.mktemp("floats")
    (folder / "model.onnx").write_bytes(_graph())
    return _bundle(folder, "model.onnx")


def _bundle(folder, *names):
    generator = np.random.default_rng(2)
    files = {name: (folder / name).read_bytes() for name in names}
    with contextlib.closing(ort.OrtSession(folder / "model.onnx", {}, threads=1)) as session:
        rows = [{"x": generator.normal(size=(1, WIDTH)).astype(np.float32)} for _ in range(2)]
        cases = golden_check.record(session, rows)
    manifest = tiny_models.write(folder / "made.edgeml", _draft(), files | {golden.GOLDEN_NAME: golden.encode(cases)})
    zipfile.ZipFile(folder / "made.edgeml").extractall(folder / "inside")
    return folder / "inside", manifest


def _graph():
    generator = np.random.default_rng(1)
    weights = [generator.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)) for _ in range(LAYERS)]
    nodes = [
        helper.make_node("MatMul", ["x" if not number else f"h{number}", f"w{number}"], [f"h{number + 1}"])
        for number in range(len(weights))
    ]
    nodes.append(helper.make_node("Relu", [f"h{len(weights)}"], ["y"]))
    x, y = (tiny_models.float_value(name, [None, WIDTH]) for name in "xy")
    made = [tiny_models.constant(f"w{number}", weight.astype(np.float32)) for number, weight in enumerate(weights)]
    return tiny_models.onnx_model(nodes, made, inputs=[x], outputs=[y])


def _draft():
    spec = {"dtype": "float32", "shape": (-1, WIDTH)}
    draft = tiny_models.drafted(
        ("layered", "1.0", "x86-vnni"),
        task="tensors",
        inputs=(manifests.TensorSpec(name="x", **spec),),
        outputs=(manifests.TensorSpec(name="y", **spec),),
        preprocess=processing.TensorInput(),
        postprocess=processing.TensorOutput(),
    )
    return msgspec.structs.replace(draft, needs=manifests.Needs(ram_bytes=8 * MIB, disk_bytes=8 * MIB))


@pytest.mark.timing
def test_a_sweep_finds_what_pays_and_the_server_runs_so(layered):
    """Weights that are mapped instead of packed into memory; the same answers, none missed while it is loaded."""
    folder, manifest = layered
    case = golden.decode((folder / golden.GOLDEN_NAME).read_bytes())[0]
    row, expected = tensors.from_data(case.inputs["x"]), tensors.from_data(case.outputs["y"])

    found, answers, freed_bytes = in_own_process(_tune_and_reload, folder, manifest, row)
    assert found.prepared
    assert found.saved_bytes > WEIGHTS_BYTES / 2
    assert freed_bytes > WEIGHTS_BYTES / 2
    assert found.measured_ram_bytes < found.predicted_ram_bytes
    assert found.tuned_ms < found.exported_ms * (1 + autotune.LOSS_MAX) * 1.5 + autotune.NOTICEABLE_MS
    assert found.batch_size == 1  # its activations are scaled over all rows: in company answers would change
    assert len(answers) > 1
    for answer in answers:
        np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-3)


def _tune_and_reload(folder, manifest, row):
    """Return what the sweep found, the answers while the server took it over, and by how many bytes that shrank it."""

    async def main():
        memory.return_large_blocks()
        models = Models()
        await models.activate("layered", folder, manifest)
        before_bytes = memory.anonymous_bytes()
        found = await ChildProber().tune(folder, manifest)
        answers, enough = [], asyncio.Event()
        asking = asyncio.create_task(_ask(models, row, answers, enough))
        await models.reload("layered")
        await models.retired()
        after_bytes = memory.anonymous_bytes()
        enough.set()
        await asking
        await models.close()
        return found, answers, before_bytes - after_bytes

    return asyncio.run(main())


async def _ask(models, row, answers, enough):
    while not enough.is_set():
        answers.append((await models.run("layered", lambda model: model.infer({"x": row})))["y"])


def test_what_was_found_elsewhere_is_worth_nothing(layered, monkeypatch):
    """Another runtime, other cores, another sweep: as if nothing had been found."""
    folder, manifest = layered
    found = _tuned(folder, manifest)
    assert tuning.read(folder, manifest) == found
    with monkeypatch.context() as other:
        other.setattr(engines, "installed", lambda: {"onnxruntime": "9.9.9"})
        assert tuning.read(folder, manifest) is None
    with monkeypatch.context() as other:
        other.setattr(tuning.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
        assert tuning.read(folder, manifest) is None
    assert tuning.read(folder, manifest) == found


def _tuned(folder, manifest):
    """Return what a sweep has found, or what a sweep finds that takes its time and lets prepared weights pay."""
    return tuning.read(folder, manifest) or in_own_process(_tune_patiently, folder, manifest)


def _tune_patiently(folder, manifest):
    autotune.TUNING_MAX_S = autotune.LOSS_MAX = math.inf
    memory.return_large_blocks()
    return autotune.Tuner(folder, manifest).run()


@pytest.mark.parametrize("damage", [b"", b"\0" * 100_000])
def test_prepared_weights_that_the_disk_lost_are_given_up(layered, damage):
    """The release runs as it was exported, and may be tuned anew."""
    folder, manifest = layered
    _tuned(folder, manifest)
    weights = folder / tuning.FOLDER_NAME / "model.prepared"
    weights.write_bytes(damage + weights.read_bytes()[len(damage) :] if damage else b"")

    async def main():
        models = Models()
        await models.activate("layered", folder, manifest)
        answer = await models.run("layered", lambda model: model.infer({"x": np.zeros((1, WIDTH), np.float32)}))
        await models.close()
        return answer["y"]

    assert not asyncio.run(main()).any()
    assert tuning.read(folder, manifest) is None


def test_what_does_not_answer_rightly_is_not_kept(tmp_path):
    """A sweep ends as a probe would; nothing is left of it."""
    manifest = tiny_models.tiny_onnx_bundle(tmp_path / "tiny.edgeml", fault="wrong golden")
    zipfile.ZipFile(tmp_path / "tiny.edgeml").extractall(tmp_path / "tiny")
    with pytest.raises(DeviceError) as caught:
        asyncio.run(ChildProber().tune(tmp_path / "tiny", manifest))
    assert caught.value.code == "golden-mismatch"
    assert tuning.read(tmp_path / "tiny", manifest) is None


def test_a_device_tunes_what_it_was_given_and_says_so(tmp_path, monkeypatch):
    """In the background after an update; over MQTT, and on the device itself."""
    monkeypatch.setenv("EDGEML_SERVE_TUNE", "true")
    with site(tmp_path) as place:
        place.publish("1.0", scale=2.0)
        place.deploy("1.0")
        place.start_host()
        place.start_agent()
        until(lambda: any(report.tuned for report in place.observer.reports()), "a report of what was found")
        told = json.loads(place.run_agent_command("models", "--json").stdout)["models"][0]
    assert (told["name"], told["version"]) == (MODEL, "1.0")
    assert told["tuned"]["threads"] >= 1


def test_raw_tensors_share_runs_where_it_pays(floats):
    """Over the Open Inference Protocol and as tasks: each gets its own rows, and fewer runs than requests do it."""
    folder, manifest = floats
    rows = np.random.default_rng(3).normal(size=(8, WIDTH)).astype(np.float32)

    async def main():
        async with server() as (models, client):
            await models.activate("layered", folder, manifest)
            alone = [(await _asked(client, row)) for row in rows]
            share = models.find("layered").worker._share
            models.find("layered").worker._share = batching.BATCH_MAX  # on a busy machine it may not seem to pay
            go_on = threading.Event()
            blocking = asyncio.create_task(models.run("layered", lambda _: go_on.wait(20)))
            asking = [asyncio.create_task(_asked(client, row)) for row in rows]
            tasks = [asyncio.create_task(_asked_as_task(client, part)) for part in (rows[:2], rows[2:])]
            while models.find("layered").queue_depth < 11:  # noqa: ASYNC110 - the server's own count
                await asyncio.sleep(0.005)
            before = models.find("layered").worker.ran.count
            go_on.set()
            await blocking
            together, [two, six] = await asyncio.gather(*asking), await asyncio.gather(*tasks)
            return share, alone, together, [*two, *six], models.find("layered").worker.ran.count - before

    share, alone, together, as_tasks, runs = asyncio.run(main())
    assert share in {1, batching.BATCH_MAX}
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(as_tasks, alone, rtol=1e-3, atol=1e-3)
    assert runs <= 5


async def _asked(client, row):
    tensor = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "data": row.tolist()}
    response = await client.post("/v2/models/layered/infer", json={"inputs": [tensor]})
    return response.json()["outputs"][0]["data"]


async def _asked_as_task(client, rows):
    response = await client.post("/v1/models/layered/predict", json=[{"inputs": {"x": [row.tolist()]}} for row in rows])
    return [it["outputs"]["y"][0] for it in response.json()["outputs"]]
