"""The metrics page of a server that works: Prometheus' names, waiting, tokens; and of an agent that updates."""

import asyncio
import re

import httpx

from edgeml_agent.commands.scrape import parse
from edgeml_runtime.unpack import unpacked as opened
from integration.test_serving import server
from support import brokers
from support.delivery_site import MODEL, TIMEOUT_S, site, until
from support.plain_http import NO_TLS

#: The base units that Prometheus asks for, counts of things, and what is said of something by its labels.
NAME = re.compile(r"(edgeml|process)_[a-z]+(_[a-z]+)*")
UNITS = ("_seconds", "_bytes", "_celsius", "_info", "_depth", "_limit", "_state", "_throttled", "_psi", "_items")
QUESTION = {"messages": [{"role": "user", "content": "Who checks the filter?"}]}
PATHS = ("/v1/models/chat/predict", "/v1/chat/completions", "/v1/chat/completions")


def samples(page):
    """The values by name and labels."""
    return {(it.name, *sorted(it.labels.items())): it.value for it in parse(page)}


def test_tokens_and_waiting_are_counted(chatting):
    """Whether a text comes as one or as a stream; every request has waited, and no longer than it took."""

    async def main():
        async with server() as (models, client):
            with opened(chatting[1].path) as bundle:
                await models.activate("chat", bundle.folder, bundle.manifest)
                before = (await client.get("/metrics")).text
                whole, stream = QUESTION, QUESTION | {"model": "chat", "temperature": 0, "stream": True}
                answers = await asyncio.gather(
                    *(client.post(path, json=body) for path, body in zip(PATHS, (whole, stream, stream), strict=True))
                )
                return before, answers, (await client.get("/metrics")).text

    before, answers, page = asyncio.run(main())
    assert samples(before)["edgeml_generated_tokens_total", ("model", "chat")] == 0
    found, model = samples(page), ("model", "chat")
    (answer,) = answers[0].json()["outputs"]
    assert found["edgeml_generated_tokens_total", model] == len(PATHS) * answer["tokens"]
    assert found["edgeml_queue_wait_seconds_count", model] == len(PATHS)
    assert 0 < found["edgeml_queue_wait_seconds_sum", model] < found["edgeml_request_duration_seconds_sum", model]
    assert found["process_cpu_seconds_total",] > 0


def test_names_follow_prometheus_conventions():
    """A prefix, lower case, a base unit; `_total` on counters and on nothing else."""

    async def main():
        async with server() as (_, client):
            return (await client.get("/metrics")).text

    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", asyncio.run(main()), re.MULTILINE))
    assert len(kinds) > 8
    for name, kind in kinds.items():
        assert NAME.fullmatch(name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert kind == "counter" or name.endswith(UNITS), name
    assert "edgeml_queue_wait_seconds" in kinds


def test_an_update_shows_its_state_and_what_it_fetched(tmp_path):
    """Just one state at a time; the bytes of all updates since the start."""
    where = f"127.0.0.1:{brokers.free_port()}"
    with site(tmp_path) as made:
        made.config.write_text(made.config.read_text().replace("127.0.0.1:0", where))

        def page():
            return samples(httpx.get(f"http://{where}/metrics", timeout=TIMEOUT_S, verify=NO_TLS).text)

        made.start_host()
        made.start_agent()
        fetched = [0.0]
        for number, version in enumerate(("1.0", "2.0")):
            made.publish(version, scale=2.0 + number, seed=number, weights_bytes=200_000)
            made.deploy(version)
            made.observer.await_report(state="active", version=version)
            until(lambda: made.answers(21.0 + 10 * number), "it answers")  # noqa: B023 - asked within the round
            found = page()
            states = {labels[1][1]: value for (name, *labels), value in found.items() if name == "edgeml_update_state"}
            assert [state for state, value in states.items() if value] == ["active"]
            assert {"fetching", "rolled back"} < states.keys()
            fetched.append(found["edgeml_fetched_bytes_total", ("model", MODEL)])
            assert 200_000 < fetched[-1] - fetched[-2] < 400_000  # a chunk may come again, all don't
