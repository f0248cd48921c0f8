"""The dashboard's application without a network, as browsers and programs use it."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.testclient import TestClient

from edgeml import repository
from edgeml.fleet.registry import Registry
from edgeml.fleet.web import server
from edgeml.fleet.web.accounts import Role
from edgeml.fleet.web.threads import Threads
from support.dashboard_fleet import PASSWORD
from support.dashboard_site import NO_BROKER

URL = "http://127.0.0.1"


class Site:
    """An application with its fleet; `client` is a browser."""

    def __init__(self, repo: Path, registry: Registry, tokens: dict[Role, str], *, is_secure: bool = False) -> None:
        self.repo, self.registry, self.tokens = repo, registry, tokens
        rules = {"is_secure": is_secure, "is_local": not is_secure}
        self.app = server.make(repository.opened(repo), registry, Threads(), NO_BROKER, **rules)
        self.client = self.browser()

    def browser(self, url: str = URL) -> TestClient:
        """A browser without cookies."""
        return TestClient(self.app, base_url=url, follow_redirects=False)

    def get(self, path: str, role: Role = Role.ADMIN, **more):
        """Ask with the token of a role."""
        return self.call("GET", path, role, **more)

    def call(self, method: str, path: str, role: Role, **more):
        """Send a request with the token of a role, from no browser."""
        headers = {"Authorization": f"Bearer {self.tokens[role]}", **more.pop("headers", {})}
        return self.browser().request(method, path, headers=headers, **more)

    def log_in(self, name: str, password: str = PASSWORD, client: TestClient | None = None):
        """Log in as a browser does."""
        client = client or self.client
        form = csrf_of(client.get("/login").text)
        return client.post("/login", data={"name": name, "password": password, "csrf": form})

    @property
    def rollout(self) -> str:
        """The id of the rollout."""
        return self.get("/api/v1/rollouts").json()["rollouts"][0]["deployment"]["id"]


def csrf_of(page: str) -> str:
    """The token in a page's form."""
    return re.search(r'name="csrf" value="([^"]+)"', page)[1]
