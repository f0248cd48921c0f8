"""The real server on a loopback port, with real models: both doors, errors, pressure, and swaps under traffic."""

import asyncio
import base64
import contextlib
import io
import itertools
import math
import signal
import socket
import threading
import time
from functools import partial

import httpx
import msgspec
import numpy as np
import pytest
from PIL import Image as Pictures
from tests.support import task_models, tiny_models
from tests.support.plain_http import NO_TLS
from tests.support.sounds import wav
from tests.support.waiting import until, until_async

from edgeml_agent.http_api.app import build
from edgeml_agent.http_api.auth import Rules
from edgeml_agent.http_api.body import BODY_MAX_BYTES
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.oip.routes import EXTENSIONS
from edgeml_agent.http_api.server import listen, serve
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import QUEUE_MAX, Worker
from edgeml_core.bundle import BundleReader
from edgeml_core.errors import DeviceError, EdgemlError, UsageError

TOKEN = "a-token-of-24-characters"
PREDICT = "/v1/models/tiny/predict"
INFER = "/v2/models/tiny/infer"
ROW = [1.0, 2.0, 3.0, 4.0]
TASK_BODY = {"inputs": {"x": [ROW]}}
OIP_BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}]}
LOCAL = Rules()
#: By version, so that an answer tells which one gave it.
SCALES = {"1.0": 2.0, "1.1": 3.0, "1.2": 5.0, "1.3": 7.0}


def unpacked(folder, make=tiny_models.tiny_onnx_bundle, **options):
    """The folder of a real bundle's files, and its manifest."""
    bundle = folder / "made.edgeml"
    manifest = make(bundle, **options)
    inside = folder / manifest.stem
    with bundle.open("rb") as source:
        reader = BundleReader(source)
        for entry in manifest.files:
            path = inside / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(reader.read(entry.path))
    return inside, manifest


@contextlib.asynccontextmanager
async def server(rules=LOCAL, ready=lambda: True):
    """The real server on a free port, without models, and a client of it."""
    models = Models()
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    info = ServerInfo(device="device-7", version="1.2.3", ready=ready)
    running = asyncio.create_task(serve(build(models, info, rules), listener))
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, verify=NO_TLS) as client:
        yield models, client
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await models.close()


def answers(folder, *asked, **options):
    """The responses to `asked`, (method, path, keywords) each, of a server with the tiny model."""

    async def main():
        async with server(**options) as (models, client):
            await models.activate("tiny", *unpacked(folder), "d-1")
            return [await client.request(method, path, **keywords) for method, path, keywords in asked]

    return asyncio.run(main())


def test_one_object_and_a_list_are_answered_by_the_task_door(tmp_path):
    """The answer names the version that gave it; a list comes back in its order."""
    one, many = answers(
        tmp_path,
        ("POST", PREDICT, {"json": TASK_BODY}),
        ("POST", PREDICT, {"json": [TASK_BODY, {"inputs": {"x": [[0, 0, 0, 0]]}}]}),
    )
    assert one.json() == {"model": "tiny", "version": "1.0", "outputs": [{"outputs": {"y": [[3, 5, 7, 9]]}}]}
    assert [answer["outputs"]["y"] for answer in many.json()["outputs"]] == [[[3, 5, 7, 9]], [[1, 1, 1, 1]]]


@pytest.mark.parametrize("path", [PREDICT, INFER, "/v1/embeddings", "/v1/chat/completions", "/v2/repository/index"])
def test_json_that_would_cost_much_memory_is_refused_at_every_door(tmp_path, path):
    """Three megabytes become a hundred, and nobody else is answered meanwhile."""
    body = b'{"inputs":[' + b"[]," * 1_000_000 + b"[]]}"
    (refused,) = answers(tmp_path, ("POST", path, {"content": body}))
    assert refused.status_code == 413
    assert "65536 arrays" in refused.text


def test_what_curl_sends_when_it_is_told_nothing_is_json(tmp_path):
    """`curl -d '{...}'` says that it sends a form."""
    typed = {
        "content": msgspec.json.encode(TASK_BODY),
        "headers": {"content-type": "application/x-www-form-urlencoded"},
    }
    (response,) = answers(tmp_path, ("POST", PREDICT, typed))
    assert response.status_code == 200


def test_text_goes_in_and_labels_come_out(tmp_path):
    """A text model, its tokenizer and labels travel in its bundle."""

    async def main():
        async with server() as (models, client):
            await models.activate("mood", *unpacked(tmp_path, tiny_models.tiny_text_bundle))
            return await client.post("/v1/models/mood/predict", json=[{"text": "good film"}, {"text": "bad bad"}])

    outputs = asyncio.run(main()).json()["outputs"]
    assert [answer["labels"][0]["label"] for answer in outputs] == ["positive", "negative"]


def test_a_text_that_is_cut_says_so_at_every_door(tmp_path):
    """Its label is that of its beginning, with how much of it that is; a text that is read whole says nothing."""
    texts = ["good film", "bad " * 14 + "good " * 30]
    given = {"name": "text", "shape": [2], "datatype": "BYTES", "data": texts}

    async def main():
        async with server() as (models, client):
            await models.activate("mood", *unpacked(tmp_path, tiny_models.tiny_text_bundle))
            return [
                await client.post("/v1/models/mood/predict", json=[{"text": text} for text in texts]),
                await client.post("/v2/models/mood/infer", json={"inputs": [given]}),
                await client.post(
                    "/v2/models/mood/infer", json={"inputs": [given | {"shape": [1], "data": texts[:1]}]}
                ),
            ]

    by_task, cut, whole = asyncio.run(main())
    short, long = by_task.json()["outputs"]
    assert "truncated" not in short
    assert long["labels"][0]["label"] == "negative"
    assert long["truncated"] == {"tokens": 46, "read": 16}
    assert cut.json()["parameters"] == {"truncated": 1}
    assert "parameters" not in whole.json()


def test_the_listing_serves_openai_clients_too(tmp_path):
    """The fields that OpenAI's client requires, and what a device adds."""
    (listing,) = answers(tmp_path, ("GET", "/v1/models", {}))
    (model,) = listing.json()["data"]
    assert listing.json()["object"] == "list"
    assert {key: model[key] for key in ("id", "object", "version", "format", "deployment")} == {
        "id": "tiny",
        "object": "model",
        "version": "1.0",
        "format": "onnx",
        "deployment": "d-1",
    }
    assert abs(model["created"] - time.time()) < 60


def test_the_protocol_describes_server_and_model(tmp_path):
    """Metadata by the Open Inference Protocol, with and without the version in the path."""
    root, model, versioned, ready = answers(
        tmp_path,
        ("GET", "/v2", {}),
        ("GET", "/v2/models/tiny", {}),
        ("GET", "/v2/models/tiny/versions/1.0", {}),
        ("GET", "/v2/models/tiny/versions/1.0/ready", {}),
    )
    assert root.json() == {"name": "edgeml-agent", "version": "1.2.3", "extensions": list(EXTENSIONS)}
    assert model.json() == {
        "name": "tiny",
        "versions": ["1.0"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    assert versioned.json() == model.json()
    assert ready.json() == {"name": "tiny", "ready": True}


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/json"}, {"content-type": "application/octet-stream"}]
)
def test_tensors_are_inferred_whatever_type_the_client_sends(tmp_path, headers):
    """Tritonclient sends no Content-Type at all."""
    body = msgspec.json.encode(OIP_BODY | {"id": "7"})
    (response,) = answers(
        tmp_path, ("POST", "/v2/models/tiny/versions/1.0/infer", {"content": body, "headers": headers})
    )
    assert response.json() == {
        "model_name": "tiny",
        "model_version": "1.0",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [3, 5, 7, 9]}],
    }


def test_health_has_both_fields_on_every_door(tmp_path):
    """Kserve's client reads both; not ready is 503, but live stays 200."""
    paths = ("/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
    asked = [("GET", path, {}) for path in paths]
    for response in answers(tmp_path, *asked):
        assert (response.status_code, response.json()) == (200, {"live": True, "ready": True})
    statuses = [response.status_code for response in answers(tmp_path, *asked, ready=lambda: False)]
    assert statuses == [200, 200, 503, 200, 503]


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (("POST", PREDICT, {"content": b"{"}), 400, "input-invalid"),
        (("POST", PREDICT, {"json": {"text": "x"}}), 400, "input-invalid"),
        (("POST", PREDICT, {"json": []}), 400, "input-invalid"),
        (("POST", PREDICT, {"content": b"[" * 50_000}), 400, "input-invalid"),
        (("POST", PREDICT, {"content": b"x", "headers": {"content-type": "text/plain"}}), 415, "content-unsupported"),
        (("POST", PREDICT, {"content": b"x", "headers": {"content-type": "image/png"}}), 400, "input-invalid"),
        (("POST", PREDICT, {"content": b" " * (BODY_MAX_BYTES + 1)}), 413, "body-too-large"),
        (("POST", "/v1/models/other/predict", {"json": TASK_BODY}), 404, "model-unknown"),
        (("GET", PREDICT, {}), 405, "route-unknown"),
        (("GET", "/nothing", {}), 404, "route-unknown"),
        (("GET", "/v1/models", {"headers": {"host": "evil.example"}}), 403, "origin-refused"),
        (("POST", INFER, {"content": b"{"}), 400, None),
        (("POST", INFER, {"json": {"inputs": []}}), 400, None),
        (("POST", INFER, {"json": OIP_BODY, "headers": {"inference-header-content-length": "9"}}), 400, None),
        (("POST", INFER, {"json": OIP_BODY, "headers": {"inference-header-content-length": "9" * 5000}}), 400, None),
        (("POST", INFER, {"content": b"x", "headers": {"content-type": "text/plain"}}), 415, None),
        (("POST", "/v2/models/tiny/versions/9.9/infer", {"json": OIP_BODY}), 404, None),
        (("GET", "/v2/models/other/ready", {}), 404, None),
        (("GET", "/v2/nothing", {}), 404, None),
        (("GET", INFER, {}), 405, None),
    ],
)
def test_errors_have_the_shape_of_their_door(tmp_path, asked, status, code):
    """Below /v2 one string, elsewhere code, message and hint; always JSON of exactly that type."""
    (response,) = answers(tmp_path, asked)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    if code is None:
        assert isinstance(error, str)
        assert error
    else:
        assert error["code"] == code
        assert error.keys() == {"code", "message", "hint"}


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_a_defect_of_the_server_tells_nothing_of_its_inside(tmp_path, path, caplog):
    """500 with the door's shape: the client learns only that it happened, the log why."""

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            # The session is gone under the server's feet: a defect.
            session = await models.run("tiny", lambda model: vars(model).pop("session"))
            response = await client.post(path, json=TASK_BODY if path == PREDICT else OIP_BODY)
            await models.run("tiny", lambda model: vars(model).update(session=session))
            return response

    response = asyncio.run(main())
    assert (response.status_code, response.headers["content-type"]) == (500, "application/json")
    assert "session" not in response.text
    assert "Traceback" not in response.text
    assert "session" in caplog.text


@pytest.mark.parametrize("how", ["raw", "form", "json"])
def test_an_image_comes_as_bytes_in_a_form_or_in_json(tmp_path, how):
    """All three ways reach the model alike: it takes tensors, so each is refused by it, not by the door."""
    image = b"\x89PNG\r\n\x1a\n"
    keywords = {
        "raw": {"content": image, "headers": {"content-type": "image/png"}},
        "form": {"files": {"image": ("cat.png", image, "image/png")}},
        "json": {"json": {"image": base64.b64encode(image).decode()}},
    }
    (response,) = answers(tmp_path, ("POST", PREDICT, keywords[how]))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "input-invalid")


def test_what_is_in_a_picture_is_told_in_its_pixels(tmp_path):
    """By bytes or in JSON, where a request may have a threshold of its own; raw tensors are the protocol's."""
    held = io.BytesIO()
    picture = Pictures.new("RGB", (120, 80))
    picture.paste((20, 200, 40), (60, 0, 120, 80))
    picture.save(held, "PNG")
    encoded = base64.b64encode(held.getvalue()).decode()
    pixels = {"name": "pixels", "shape": [1, 3, 16, 16], "datatype": "FP32", "data": [5.0] * 768}

    async def main():
        async with server() as (models, client):
            await models.activate("finder", *unpacked(tmp_path, partial(task_models.bundle, task="object-detection")))
            predict = "/v1/models/finder/predict"
            return [
                await client.post(predict, content=held.getvalue(), headers={"content-type": "image/png"}),
                await client.post(predict, json=[{"image": encoded}, {"image": encoded, "threshold": 0.05}]),
                await client.post(predict, json={"image": encoded, "threshold": 2}),
                await client.post("/v2/models/finder/infer", json={"inputs": [pixels]}),
            ]

    by_bytes, by_json, refused, raw = asyncio.run(main())
    (found,) = by_bytes.json()["outputs"][0]["boxes"]
    assert (found["label"], found["box"]) == ("green", {"xmin": 60, "ymin": 0, "xmax": 120, "ymax": 80})
    usual, less_sure = (answer["boxes"] for answer in by_json.json()["outputs"])
    assert (usual, len(less_sure), less_sure[0]) == ([found], 2, found)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "input-invalid")
    assert {it["name"]: it["shape"] for it in raw.json()["outputs"]} == {"logits": [1, 2, 4], "boxes": [1, 2, 4]}


def test_a_mask_is_filled_by_json_alone_or_in_a_list(tmp_path):
    """With the number of tokens requested; a text without a mask is refused by name."""

    async def main():
        async with server() as (models, client):
            await models.activate("gaps", *unpacked(tmp_path, partial(task_models.bundle, task="fill-mask")))
            predict = "/v1/models/gaps/predict"
            asked = [{"text": "the new [MASK]"}, {"text": "check the new [MASK] .", "top_k": 1}]
            return [await client.post(predict, json=it) for it in (asked, {"text": "the new pump"})]

    answered, refused = asyncio.run(main())
    five, one = (it["fills"] for it in answered.json()["outputs"])
    assert [it["token_str"] for it in five[:2]] == ["filter", "pump"]
    assert (len(five), [it["sequence"] for it in one]) == (5, ["check the new filter."])
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "the text has 0 masks; 1 is needed"


def test_speech_is_recognized_from_samples_and_from_a_file(tmp_path):
    """Both give the text of the one answer, also at half the model's rate; a rate of no recorder is refused."""
    samples = [0.25] * 800 + [0.0] * 400 + [0.9] * 800
    file = base64.b64encode(wav(np.float32(samples))).decode()

    async def main():
        async with server() as (models, client):
            make = partial(task_models.bundle, task="automatic-speech-recognition")
            await models.activate("ears", *unpacked(tmp_path, make))
            predict = "/v1/models/ears/predict"
            whole = {"samples": samples, "sampling_rate": 16_000}
            asked = [whole, {"audio": file}, {"samples": samples[::2], "sampling_rate": 8_000}]
            return [await client.post(predict, json=it) for it in (asked, whole | {"sampling_rate": 800})]

    answered, refused = asyncio.run(main())
    assert answered.json()["outputs"] == [{"text": "quietloud"}] * 3
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "input-invalid")


def test_off_localhost_the_token_is_wanted_on_every_door(tmp_path):
    """Only health is open."""
    rules = Rules(local_only=False, token=TOKEN)
    paths = ("/v1/models", "/v2", "/metrics", "/health/ready")
    without = answers(tmp_path, *(("GET", path, {}) for path in paths), rules=rules)
    assert [response.status_code for response in without] == [401, 401, 401, 200]
    assert without[0].headers["www-authenticate"] == "Bearer"
    header = {"headers": {"authorization": f"Bearer {TOKEN}"}}
    assert [r.status_code for r in answers(tmp_path, *(("GET", path, header) for path in paths), rules=rules)] == [
        200
    ] * 4


def test_metrics_count_what_was_asked(tmp_path):
    """Requests by outcome, the model's version, the queue and memory, each line in the format's grammar."""
    *_, page = answers(
        tmp_path,
        ("POST", PREDICT, {"json": TASK_BODY}),
        ("POST", INFER, {"json": OIP_BODY}),
        ("POST", PREDICT, {"json": {}}),
        ("GET", "/metrics", {}),
    )
    assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = page.text.splitlines()
    assert 'edgeml_requests_total{model="tiny",code="ok"} 2' in lines
    assert 'edgeml_requests_total{model="tiny",code="input-invalid"} 1' in lines
    assert 'edgeml_model_info{model="tiny",version="1.0",target="x86-vnni",deployment="d-1"} 1' in lines
    assert 'edgeml_queue_depth{model="tiny"} 0' in lines
    assert 'edgeml_request_duration_seconds_bucket{model="tiny",le="+Inf"} 3' in lines
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert 1e6 < float(samples["process_resident_memory_bytes"]) < 1e11
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    endings = ("_bucket", "_sum", "_count")
    for name in (sample.partition("{")[0] for sample in samples):
        assert name in typed or any(name.removesuffix(ending) in typed for ending in endings)


def test_a_full_queue_answers_when_to_come_back(tmp_path):
    """429 with Retry-After from the measured service time; what was accepted is answered; then there is room again."""
    go_on = threading.Event()

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            await models.run("tiny", lambda _: time.sleep(0.2))
            service_s = models.find("tiny").service_s
            waiting = [asyncio.create_task(models.run("tiny", lambda _: go_on.wait(60))) for _ in range(QUEUE_MAX)]
            await asyncio.sleep(0)
            refused = [await client.post(PREDICT, json=TASK_BODY), await client.post(INFER, json=OIP_BODY)]
            healthy = await client.get("/health/live")
            go_on.set()
            accepted = await asyncio.gather(*waiting)
            return service_s, refused, healthy, accepted, await client.post(PREDICT, json=TASK_BODY)

    service_s, refused, healthy, accepted, after = asyncio.run(main())
    assert [response.status_code for response in refused] == [429, 429]
    # One running mean after one job of at least 0.2 s: half of the queue is free when 16 such jobs are done.
    assert service_s >= 0.2
    first_s, second_s = (int(response.headers["retry-after"]) for response in refused)
    assert first_s == math.ceil(QUEUE_MAX / 2 * service_s)
    assert 1 <= second_s <= first_s  # the same client keeps its time
    assert refused[0].json()["error"]["code"] == "overloaded"
    assert isinstance(refused[1].json()["error"], str)
    assert healthy.status_code == 200
    assert all(accepted)
    assert after.status_code == 200


def test_health_answers_while_a_model_saturates(tmp_path):
    """Real inference fills the model's thread and queue until health has answered: it waits for none of it."""
    rows = np.ones((1_000_000, 4), np.float32)

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            answered = threading.Event()
            busy = [asyncio.create_task(models.run("tiny", _burn(rows, answered))) for _ in range(10)]
            found = [(await client.get("/health/live")).status_code for _ in range(20)]
            ended = [task.done() for task in busy]
            answered.set()
            await asyncio.gather(*busy)
            return found, ended

    assert asyncio.run(main()) == ([200] * 20, [False] * 10)


def _burn(rows, answered):
    """Make a call that keeps a model running until `answered` is set."""

    def call(model):
        while not answered.is_set():
            model.infer({"x": rows})

    return call


def test_no_request_fails_over_swaps_at_either_door(tmp_path):
    """Eight clients on both doors: every answer is right for the version that it names, and the newest is there."""
    bundles = [unpacked(tmp_path, version=version, scale=scale) for version, scale in SCALES.items()]

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *bundles[0])
            swapped = asyncio.Event()
            paths, url = (INFER, PREDICT), client.base_url
            clients = [asyncio.create_task(_ask(url, swapped, paths[n % 2])) for n in range(8)]
            for folder, manifest in itertools.islice(itertools.cycle(bundles[1:] + bundles[:1]), 8):
                await models.activate("tiny", folder, manifest)
                newest = await client.post(PREDICT, json=TASK_BODY)
                assert newest.json()["version"] == manifest.version
            swapped.set()
            return await asyncio.gather(*clients)

    seen = [version for versions in asyncio.run(main()) for version in versions]
    assert set(seen) == set(SCALES)
    assert len(seen) > 50


async def _ask(url, enough, path):
    """Ask until `enough`, check every answer, and return the versions that gave them.

    On connections of its own: tasks that share a pool of httpx's can take them from one for seconds.
    """
    versions = []
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, verify=NO_TLS) as client:
        while not enough.is_set():
            response = await client.post(path, json=TASK_BODY if path == PREDICT else OIP_BODY)
            assert response.status_code == 200, response.text
            answer = response.json()
            version = answer.get("version") or answer["model_version"]
            found = answer["outputs"][0]["outputs"]["y"][0] if path == PREDICT else answer["outputs"][0]["data"]
            assert found == [value * SCALES[version] + 1 for value in ROW]
            versions.append(version)
    return versions


def test_a_model_that_can_not_load_leaves_the_old_one_answering(tmp_path):
    """Activation fails with the runtime's error; nothing of what was served changes."""
    folder, manifest = unpacked(tmp_path)
    broken, broken_manifest = unpacked(tmp_path, version="2.0")
    (broken / broken_manifest.model).write_bytes(b"no model")
    huge = unpacked(tmp_path, version="3.0", fault="huge")

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", folder, manifest)
            for bad in ((broken, broken_manifest), huge):
                with pytest.raises(DeviceError) as caught:
                    await models.activate("tiny", *bad)
                assert caught.value.code == "runtime-failed"
            return await client.post(PREDICT, json=TASK_BODY)

    assert asyncio.run(main()).json()["version"] == "1.0"


def test_a_replaced_version_closes_without_anybody_who_waits(tmp_path):
    """While it drains the new one answers, what was queued is answered, and no thread stays."""
    old, new = unpacked(tmp_path), unpacked(tmp_path, version="2.0")
    go_on = threading.Event()

    async def main():
        models = Models()
        await models.activate("tiny", *old)
        queued = [asyncio.create_task(models.run("tiny", lambda _: go_on.wait(20))) for _ in range(3)]
        await asyncio.sleep(0)
        await models.activate("tiny", *new)
        waiting = asyncio.create_task(models.retired("tiny"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        version = await models.run("tiny", lambda model: model.manifest.version)
        go_on.set()
        await models.close()
        return version, await asyncio.gather(*queued)

    assert asyncio.run(main()) == ("2.0", [True] * 3)
    until(lambda: not any(thread.name.startswith("model-tiny") for thread in threading.enumerate()))


def test_a_deactivated_model_is_unknown(tmp_path):
    """What was queued is answered first; then 404. Twice is no error."""

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            queued = [asyncio.create_task(models.run("tiny", lambda model: model.manifest.version)) for _ in range(5)]
            await asyncio.sleep(0)
            await models.deactivate("tiny")
            await models.deactivate("tiny")
            return await asyncio.gather(*queued), await client.post(PREDICT, json=TASK_BODY), dict(models.active())

    queued, response, active = asyncio.run(main())
    assert queued == ["1.0"] * 5
    assert response.status_code == 404
    assert active == {}


def test_ending_the_server_finishes_what_it_has_begun(tmp_path):
    """A request under way is answered, the port is free again, and signals are left to the agent."""
    folder, manifest = unpacked(tmp_path)

    async def main():
        before = signal.getsignal(signal.SIGTERM)
        models = Models()
        await models.activate("tiny", folder, manifest)
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        info = ServerInfo(device="device-7", version="1.2.3")
        running = asyncio.create_task(serve(build(models, info, Rules()), listener))
        url, go_on = f"http://127.0.0.1:{port}", threading.Event()
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, verify=NO_TLS) as client:
            assert (await client.get("/health")).status_code == 200
            assert signal.getsignal(signal.SIGTERM) is before
            slow = asyncio.create_task(models.run("tiny", lambda _: go_on.wait(60)))
            answer = asyncio.create_task(client.post(PREDICT, json=TASK_BODY))
            await until_async(lambda: models.find("tiny").queue_depth == 2, "the request")
            running.cancel()
            asyncio.get_running_loop().call_later(0.3, go_on.set)
            response = await answer
            await slow
            with contextlib.suppress(asyncio.CancelledError):
                await running
        await models.close()
        listen("127.0.0.1", port).close()
        return response

    assert asyncio.run(main()).status_code == 200


def test_a_taken_port_is_an_error_of_the_configuration():
    """The operator learns which address, and what to set."""
    with listen("127.0.0.1", 0) as taken, pytest.raises(UsageError) as caught:
        listen("127.0.0.1", taken.getsockname()[1])
    assert caught.value.code == "config-invalid"
    assert "[serve]" in caught.value.hint


def test_answers_are_not_held_back():
    """Without TCP_NODELAY the body of an answer waits for the client's acknowledgement of its head."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_an_unknown_model_makes_no_metric_of_its_name(tmp_path):
    """Clients can't fill memory with made-up names."""

    async def main():
        models = Models()
        for number in range(5):
            with pytest.raises(EdgemlError):
                await models.run(f"made-up-{number}", lambda _: None)
        return list(models.counts.totals())

    assert asyncio.run(main()) == [("", {"model": "", "code": "model-unknown"}, 5)]


@pytest.mark.parametrize("is_quick", [True, False])
def test_an_unreadable_request_is_counted_inline_and_in_the_thread(tmp_path, monkeypatch, is_quick):
    """By both APIs, where the model would run inline and where it would not."""
    monkeypatch.setattr(Worker, "_is_short", lambda *_: is_quick)

    async def main():
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(tmp_path))
            for path in (INFER, PREDICT):
                assert (await client.post(path, content=b"{")).status_code == 400
            return models.counts.codes("tiny")

    assert asyncio.run(main()) == {"input-invalid": 2}
