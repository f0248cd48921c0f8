"""A new version beside the one that serves: the same requests through the real server, and what the rule decides."""

import asyncio
import contextlib

import pytest
from tests.integration.test_serving import INFER, OIP_BODY, PREDICT, TASK_BODY, server, unpacked
from tests.support import tiny_models
from tests.support.delivery_site import site
from tests.support.waiting import until, until_async

from edgeml_agent.ports import ShadowPolicy
from edgeml_agent.serve.calls import Predict
from edgeml_agent.serve.models import Models
from edgeml_core.errors import DeviceError

QUICK = ShadowPolicy(requests=20, max_s=20.0)


def compared(folder, rule, *, scale=2.0, make=None, body=TASK_BODY, path=PREDICT):
    """What came of a second version that answers `x * scale + 1`, and the versions and values that clients saw."""
    make = make or {"version": "2.0", "scale": scale}

    async def main():
        async with server() as (models, client):
            (folder / "old").mkdir()
            (folder / "new").mkdir()
            await models.activate("tiny", *unpacked(folder / "old"))
            comparing = asyncio.create_task(models.compare("tiny", *unpacked(folder / "new", **make), rule))
            seen = []
            while not comparing.done():
                response = await client.post(path, json=body)
                seen.append((response.status_code, response.json()))
            found = await asyncio.gather(comparing, return_exceptions=True)
            return found[0], seen, models.find("tiny")

    return asyncio.run(main())


@pytest.mark.parametrize(("path", "body"), [(PREDICT, TASK_BODY), (INFER, OIP_BODY)])
def test_versions_that_agree_end_the_comparison(tmp_path, path, body):
    """Who asks hears the old one only, whatever the door; nothing of the new one stays behind."""
    found, seen, served = compared(tmp_path, QUICK, path=path, body=body)
    assert (found.against, found.compared, found.differed, found.failed) == ("1.0", QUICK.requests, 0, 0)
    assert {status for status, _ in seen} == {200}
    assert {said.get("version") or said["model_version"] for _, said in seen} == {"1.0"}
    assert (served.shadow, served.manifest.version) == (None, "1.0")


@pytest.mark.parametrize(("path", "body"), [(PREDICT, TASK_BODY), (INFER, OIP_BODY)])
def test_a_version_that_answers_otherwise_is_found_out_early(tmp_path, path, body):
    """As soon as the rest could not make up for it; the message says in how many answers."""
    found, seen, _ = compared(tmp_path, QUICK, scale=-2.0, path=path, body=body)
    assert isinstance(found, DeviceError)
    assert found.code == "shadow-disagreed"
    assert "3 of 3 answers differ from version 1.0's" in found.message
    assert {status for status, _ in seen} == {200}


def test_a_canary_answers_its_share(tmp_path):
    """A quarter of the requests hears the new version; all are compared."""
    found, seen, _ = compared(tmp_path, ShadowPolicy(requests=40, max_s=20.0, canary=0.25))
    versions = [said["version"] for _, said in seen]
    first = versions.index("2.0")  # the new version may still have been loading when the first was asked
    assert found.compared == 40
    assert versions[first : first + 8] == ["2.0", "1.0", "1.0", "1.0"] * 2


def test_who_asks_a_canary_that_fails_hears_the_old_version(tmp_path):
    """A model that runs out of memory with each request: no request fails for it, and it is out."""
    bad = {"version": "2.0", "scale": 2.0}

    async def main():
        async with server() as (models, client):
            (tmp_path / "old").mkdir()
            (tmp_path / "new").mkdir()
            await models.activate("tiny", *unpacked(tmp_path / "old"))
            rule = ShadowPolicy(requests=10, max_s=20.0, canary=1.0)
            comparing = asyncio.create_task(models.compare("tiny", *unpacked(tmp_path / "new", **bad), rule))
            await until_async(lambda: models.find("tiny").shadow)
            _break(models.find("tiny").shadow)
            seen = []
            while not comparing.done():
                seen.append(await client.post(PREDICT, json=TASK_BODY))
            wrong = await client.post(PREDICT, json={"inputs": {"z": [1]}})
            return (await asyncio.gather(comparing, return_exceptions=True))[0], seen, wrong

    found, seen, wrong = asyncio.run(main())
    assert {(response.status_code, response.json()["version"]) for response in seen} == {(200, "1.0")}
    assert found.code == "shadow-disagreed"
    assert "2 of them errors" in found.message
    assert wrong.status_code == 400


def _break(shadow):
    """From now on the new version's session fails, as one whose memory is gone does."""

    def fail(*_):
        raise DeviceError("runtime-failed", "no memory")

    shadow._worker._model.session.run = fail


def test_a_device_that_nobody_asks_does_not_wait_forever(tmp_path):
    """What was compared until then decides; wrong requests count for nobody."""

    async def main():
        models = Models()
        await models.activate("tiny", *unpacked(tmp_path))
        asking = asyncio.create_task(models.compare("tiny", *unpacked(tmp_path), ShadowPolicy(max_s=0.5)))
        await until_async(lambda: models.find("tiny").shadow)
        wrong = Predict(parse=lambda model: model.parse({"inputs": {"z": [1]}}), write=lambda *_: None)
        with contextlib.suppress(Exception):
            await models.run("tiny", wrong)
        found = await asking
        nothing = await models.compare("other", *unpacked(tmp_path), ShadowPolicy(max_s=0.5))
        await models.close()
        return found.compared, nothing

    count, nothing = asyncio.run(main())
    assert count == 0
    assert nothing is None


def test_what_is_of_another_task_is_not_compared(tmp_path):
    """There is nothing to hold it against."""

    async def main():
        models = Models()
        await models.activate("mood", *unpacked(tmp_path))
        folder = tmp_path / "text"
        folder.mkdir()
        found = await models.compare("mood", *unpacked(folder, make=tiny_models.tiny_text_bundle), QUICK)
        await models.close()
        return found

    assert asyncio.run(main()) is None


def test_a_device_serves_the_new_version_once_it_has_agreed_and_not_before(tmp_path, monkeypatch):
    """The whole way, over a real broker: 1.1 agrees and takes 1.0's place, 1.2 doesn't and is rolled back."""
    monkeypatch.setenv("EDGEML_SERVE_SHADOW", "true")
    monkeypatch.setenv("EDGEML_SHADOW_REQUESTS", "10")
    with site(tmp_path) as place:
        place.publish("1.0", scale=2.0)
        place.deploy("1.0")
        place.start_host()
        place.start_agent()
        place.observer.await_report(state="active", version="1.0")
        place.publish("1.1", scale=2.1)
        place.deploy("1.1")
        place.observer.await_report(state="shadowing", version="1.1")
        until(lambda: place.answers(22.0), "version 1.1 after the comparison")
        place.publish("1.2", scale=-3.0)
        place.deploy("1.2")
        place.observer.await_report(state="shadowing", version="1.2")
        until(lambda: place.answer() == 22.0 and _codes(place), "the end of the comparison")
        told = [report.compared for report in place.observer.reports() if report.compared]
    assert _codes(place) == ["shadow-disagreed"]
    assert [(it.against, it.compared, it.differed) for it in told] == [("1.0", 10, 0)]


def _codes(place):
    return [report.code for report in place.observer.reports() if report.code]
