"""`edgeml-agent top` as people run it, against a real server that answers requests meanwhile."""

import asyncio
import contextlib
import json
import sys

from edgeml_agent.http_api.auth import Rules
from integration.test_serving import PREDICT, TASK_BODY, TOKEN, server, unpacked
from support.waiting import TIMEOUT_S


async def shown(folder, port, *arguments):
    """The exit code and the output of one call."""
    config = folder / "agent.toml"
    config.write_text(
        f'[device]\nid = "device-7"\n[broker]\nurl = "mqtt://127.0.0.1"\n'
        f'[serve]\nhttp = "127.0.0.1:{port}"\ntoken_file = "token"\n'
    )
    (folder / "token").write_text(TOKEN)
    command = [sys.executable, "-m", "edgeml_agent", "top", "--config", str(config), *arguments]
    program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(TIMEOUT_S):
        out, _ = await program.communicate()
    return program.returncode, out.decode()


async def ask_on(client):
    """One request after the other, without end."""
    while True:
        response = await client.post(PREDICT, json=TASK_BODY)
        assert response.status_code == 200


def test_top_shows_what_the_models_do_now(tmp_path):
    """With the token of agent.toml; in JSON the same as on the screen."""

    async def main():
        async with server(Rules(token=TOKEN)) as (models, client):
            client.headers["Authorization"] = f"Bearer {TOKEN}"
            await models.activate("tiny", *unpacked(tmp_path), "d-1")
            asking = asyncio.create_task(ask_on(client))
            code, text = await shown(tmp_path, client.base_url.port, "--once", "--json")
            screen = await shown(tmp_path, client.base_url.port, "--once")
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            return code, json.loads(text), screen

    code, frame, screen = asyncio.run(main())
    assert (code, frame["device"], frame["version"]) == (0, "device-7", "1.2.3")
    (model,) = frame["models"]
    assert (model["name"], model["version"], model["failed_per_s"]) == ("tiny", "1.0", 0)
    assert model["requests_per_s"] > 1
    assert 0 < model["p50_ms"] <= model["p99_ms"]
    assert frame["resident_bytes"] > 0
    assert screen[0] == 0
    assert [line.split()[:2] for line in screen[1].splitlines()[2:]] == [["MODEL", "VERSION"], ["tiny", "1.0"]]


def test_top_says_when_no_agent_answers(tmp_path):
    """As any command does: a code, and what to look at."""
    code, text = asyncio.run(shown(tmp_path, 1, "--once", "--json"))
    assert code == 5
    assert json.loads(text)["error"]["code"] == "agent-unreachable"
