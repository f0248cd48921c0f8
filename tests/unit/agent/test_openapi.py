"""The OpenAPI document: every route of the application and nothing else, made at its first request."""

import asyncio
import json
import subprocess
import sys
from typing import get_args

import httpx
import pytest

from edgeml_agent.http_api import page
from edgeml_agent.http_api.app import build
from edgeml_agent.http_api.auth import Rules
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


def test_every_operation_of_the_document_has_an_endpoint():
    """By path and method; HEAD goes where GET does. Names of models are unknown here, as a body is needed."""

    async def main():
        router = build(Models(), INFO, LOCAL)._router
        for path, methods in DOCUMENT["paths"].items():
            for method in methods:
                route = router.find(method.upper(), path.replace("{", "").replace("}", ""))
                yield path, method, route.endpoint.__qualname__

    async def collected():
        return [it async for it in main()]

    found = asyncio.run(collected())
    assert len(found) > 30
    assert not [it for it in found if "refuse" in it[2]]


def test_no_endpoint_is_without_an_operation():
    """Each function that an API gives is reachable."""
    gateway = build(Models(), INFO, LOCAL)
    router = gateway._router
    named = [it for found in router._exact.values() for it in found] + [it for _, it in router._patterns]
    assert {it.endpoint for it in named} == router._endpoints.keys()


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


def test_public_operations_are_health_and_the_files_of_the_page():
    """The document says so, and the server does it."""
    public = {"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", *page.FILES}
    for path, methods in DOCUMENT["paths"].items():
        for method, it in methods.items():
            assert ("security" in it) == ("401" in it["responses"]) == (path not in public)
            assert (asked(method.upper(), path, rules=Rules(token=TOKEN)).status_code == 401) == (path not in public)


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


def test_document_is_loaded_with_its_first_request():
    """A board's memory is short."""
    program = "import sys, edgeml_agent.http_api.app; print([it for it in sys.modules if 'openapi.document' in it])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
