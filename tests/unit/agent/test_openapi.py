"""The OpenAPI document: every route of the application and nothing else, and made only when somebody asks."""

import asyncio
import json
import subprocess
import sys
from typing import get_args

import httpx
import pytest

from edgeml_agent.http_api.app import build, routes
from edgeml_agent.http_api.auth import OPEN_PATHS, Rules
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.openapi.document import encoded
from edgeml_agent.serve.models import Models
from edgeml_runtime import tasks

TOKEN = "a-token-of-24-characters"
INFO = ServerInfo(device="device-7", version="1.2.3")
DOCUMENT = json.loads(encoded("1.2.3", needs_token=True))
LOCAL = Rules()


def asked(method, path, *, rules=LOCAL, **options):
    """The answer of an application without models."""

    async def main():
        transport = httpx.ASGITransport(build(Models(), INFO, rules))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(main())


def test_it_has_every_route_of_the_application_and_no_other():
    """By path and method; HEAD goes where GET does."""

    async def main():
        return routes(Models(), INFO, Rules())

    served = {(it.path, method.lower()) for it in asyncio.run(main()) for method in it.methods - {"HEAD"}}
    assert {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods} == served


def test_it_is_served_as_it_is_made():
    """With the agent's version, and the token where the server wants one."""
    without = asked("GET", "/openapi.json").json()
    assert without["info"]["version"] == "1.2.3"
    assert without == json.loads(encoded("1.2.3", needs_token=False))
    assert "securitySchemes" not in without["components"]
    rules = Rules(token=TOKEN)
    assert asked("GET", "/openapi.json", rules=rules).status_code == 401
    shown = asked("GET", "/openapi.json", rules=rules, headers={"authorization": f"Bearer {TOKEN}"})
    assert shown.json() == DOCUMENT


def test_the_token_is_wanted_where_the_document_says():
    """Everywhere but on the open paths."""
    for path, methods in DOCUMENT["paths"].items():
        for it in methods.values():
            assert ("security" in it) == ("401" in it["responses"]) == (path not in OPEN_PATHS)


def test_every_reference_leads_somewhere():
    """And no operation has another's name."""
    text = json.dumps(DOCUMENT)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names == DOCUMENT["components"]["schemas"].keys()
    ids = [it["operationId"] for methods in DOCUMENT["paths"].values() for it in methods.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/models"), ("GET", "/v2/repository/index"), ("PUT", "/")])
def test_a_method_that_is_not_served_is_told_which_are(method, path):
    """RFC 9110, section 15.5.6."""
    response = asked(method, path)
    assert response.status_code == 405
    served = {it.strip().lower() for it in response.headers["allow"].split(",")}
    assert served - {"head"} == {*DOCUMENT["paths"][path]}


def test_it_knows_every_answer_of_a_task():
    """But likelihoods, which no request asks for."""
    shown = DOCUMENT["components"]["schemas"]["Predicted"]["properties"]["outputs"]["items"]["anyOf"]
    names = {it["$ref"].rpartition("/")[2] for it in shown}
    assert names == {it.__name__ for it in get_args(tasks.Answer)} - {"LikelihoodAnswer"}
    assert "BoxesAnswer" in names


def test_nothing_of_it_is_loaded_before_somebody_asks():
    """A board's memory is short."""
    program = "import sys, edgeml_agent.http_api.app; print([it for it in sys.modules if '.openapi.' in it])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
