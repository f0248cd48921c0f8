"""Accounts: by pages, the API and commands, what each role may, and what the audit log has of it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from edgeml import repository
from edgeml.cli.fleet import fleet as commands
from edgeml.fleet.web.accounts import Accounts, Role
from edgeml.fleet.web.login_limits import PER_ADDRESS_MAX
from edgeml.fleet.web.threads import THREADS
from edgeml_core.errors import UsageError
from support.dashboard_app import Site, csrf_of
from support.dashboard_fleet import PASSWORD, USERS
from support.waiting import TIMEOUT_S


def test_an_administrator_adds_and_removes_tokens(site: Site) -> None:
    """A new token works at once, a removed one never again."""
    added = site.call("POST", "/api/v1/tokens", Role.ADMIN, json={"name": "ci", "role": "view", "days": 1})
    headers = {"Authorization": f"Bearer {added.json()['token']}"}
    assert site.browser().get("/api/v1/fleet", headers=headers).status_code == 200
    again = site.call("POST", "/api/v1/tokens", Role.ADMIN, json={"name": "ci", "role": "view"})
    assert again.status_code == 409
    assert site.call("DELETE", "/api/v1/accounts/ci", Role.ADMIN).status_code == 200
    assert site.browser().get("/api/v1/fleet", headers=headers).status_code == 401
    assert site.call("DELETE", "/api/v1/accounts/ci", Role.ADMIN).status_code == 404
    acts = [it["act"] for it in site.get("/api/v1/audit").json()["entries"]]
    assert acts[:2] == ["account remove", "token add"]


def send(client: TestClient, path: str, **fields: object):
    """Send a form of a page of accounts, with its token."""
    return client.post(path, data={**fields, "csrf": csrf_of(client.get("/accounts").text)})


def test_an_administrator_manages_accounts_by_pages(site: Site) -> None:
    """Each act is in the audit log; a reset ends sessions, and another role holds from the next request on."""
    site.log_in("adminer")
    robot = send(site.client, "/accounts", kind="token", name="robot", role="view", days="1").text
    first = re.search(r"<code>(edgeml_[^<]+)", robot)[1]
    anna = {"kind": "user", "name": "anna", "role": "view", "password": "long enough"}
    assert send(site.client, "/accounts", **anna).headers["Location"] == "/accounts"
    assert send(site.client, "/accounts", **anna).status_code == 409
    assert send(site.client, "/accounts", **{**anna, "name": "bert", "password": "short"}).status_code == 400
    assert first not in site.client.get("/accounts").text
    annas = site.browser()
    assert site.log_in("anna", "long enough", annas).status_code == 303
    assert annas.get("/accounts").status_code == 403
    assert 'href="/accounts"' not in annas.get("/").text
    assert send(site.client, "/accounts/anna", act="role", role="admin").status_code == 303
    assert annas.get("/accounts/anna").status_code == 200
    assert send(site.client, "/accounts/anna", act="password", password="another one").status_code == 303
    assert annas.get("/accounts").status_code == 303
    assert site.log_in("anna", "long enough", site.browser()).status_code == 401
    assert site.log_in("anna", "another one", annas).status_code == 303
    second = re.search(r"<code>(edgeml_[^<]+)", send(site.client, "/accounts/robot", act="token").text)[1]
    accounts = Accounts(site.registry.database)
    assert (accounts.by_token(first), accounts.by_token(second).name) == (None, "robot")
    assert send(site.client, "/accounts/robot", act="remove").status_code == 303
    assert accounts.by_token(second) is None
    entries = site.get("/api/v1/audit?last=6").json()["entries"]
    assert {it["actor"] for it in entries} == {"adminer@dashboard"}
    assert [(it["act"], it["subject"]) for it in reversed(entries)] == [
        ("token add", "robot"),
        ("user add", "anna"),
        ("role change", "anna"),
        ("password reset", "anna"),
        ("token reset", "robot"),
        ("account remove", "robot"),
    ]


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/accounts", {"kind": "user", "name": "../x", "role": "view", "password": "long enough"}, 400),
        ("/accounts", {"kind": "robot"}, 400),
        ("/accounts/viewer", {"act": "role", "role": "root"}, 400),
        ("/accounts/viewer", {"act": "token"}, 400),
        ("/accounts/view-token", {"act": "password", "password": "long enough"}, 400),
        ("/accounts/viewer", {"act": "other"}, 400),
        ("/accounts/nobody", {"act": "remove"}, 404),
    ],
    ids=str,
)
def test_bad_forms_of_accounts_change_nothing(site: Site, path: str, fields: dict[str, str], status: int) -> None:
    """And are explained by a page; without the token they are refused before that."""
    site.log_in("adminer")
    before, accounts = site.get("/api/v1/audit?last=1").json(), Accounts(site.registry.database).all()
    assert send(site.client, path, **fields).status_code == status
    assert site.client.post(path, data={**fields, "csrf": "x"}).status_code == 403
    assert site.get("/api/v1/audit?last=1").json() == before
    assert Accounts(site.registry.database).all() == accounts


def test_a_user_changes_the_own_password(site: Site) -> None:
    """With the present one alone; all sessions end, and the audit log has it."""
    site.log_in("viewer")
    other = site.browser()
    site.log_in("viewer", client=other)

    def change(present: str, password: str):
        csrf = csrf_of(site.client.get("/account").text)
        return site.client.post("/account", data={"present": present, "password": password, "csrf": csrf})

    wrong = change("another one", "quite another")
    assert (wrong.status_code, "the present password is wrong" in wrong.text) == (401, True)
    assert change(PASSWORD, "short").status_code == 400
    assert other.get("/account").status_code == 200
    assert change(PASSWORD, "quite another").headers["Location"] == "/login"
    assert other.get("/account").status_code == 303
    assert site.log_in("viewer").status_code == 401
    assert site.log_in("viewer", "quite another").status_code == 303
    entry = site.get("/api/v1/audit?last=1").json()["entries"][0]
    assert (entry["act"], entry["subject"], entry["actor"]) == ("password reset", "viewer", "viewer@dashboard")


def test_own_passwords_that_wait_for_the_repository_leave_the_pages_alone(site: Site) -> None:
    """Impatient clicks would hold all threads that answer pages."""
    site.log_in("viewer")
    form = {"present": PASSWORD, "password": "quite another", "csrf": csrf_of(site.client.get("/account").text)}
    with ThreadPoolExecutor() as clients:
        with repository.opened(site.repo).locked():
            changes = [clients.submit(site.client.post, "/account", data=form) for _ in range(THREADS + 1)]
            for _ in range(20):
                assert clients.submit(site.get, "/health").result(timeout=TIMEOUT_S).status_code == 200
        assert sorted(it.result().status_code for it in changes) == [303] + [401] * THREADS


def test_a_stolen_session_guesses_no_password(site: Site) -> None:
    """A wrong present password counts as a failed login of the account and the address."""
    site.log_in("viewer")
    csrf = csrf_of(site.client.get("/account").text)
    guess = {"present": "another one", "password": "quite another", "csrf": csrf}
    answers = [site.client.post("/account", data=guess).status_code for _ in range(PER_ADDRESS_MAX + 1)]
    assert answers == [401] * PER_ADDRESS_MAX + [429]
    assert Accounts(site.registry.database).by_password("viewer", PASSWORD) is not None


def test_a_token_changes_no_password(site: Site) -> None:
    """Its page has no form for it, and the form is refused."""
    assert 'type="password"' not in site.get("/account", Role.VIEW).text
    fields = {"present": PASSWORD, "password": "quite another"}
    assert site.call("POST", "/account", Role.VIEW, data=fields).status_code == 401


def test_the_last_administrator_stays(site: Site) -> None:
    """By pages and the API; the commands may remove all. An expired token is none."""
    site.log_in("adminer")
    accounts = Accounts(site.registry.database)
    accounts.remove("admin-token")
    accounts.add_token("expired", Role.ADMIN, lifetime_s=-1.0)
    token = accounts.add_token("deploying", Role.DEPLOY)
    for fields in ({"act": "remove"}, {"act": "role", "role": "deploy"}):
        answer = send(site.client, "/accounts/adminer", **fields)
        assert (answer.status_code, "is the last administrator" in answer.text) == (400, True)
    csrf = {"X-CSRF-Token": csrf_of(site.client.get("/accounts").text)}
    assert site.client.delete("/api/v1/accounts/adminer", headers=csrf).status_code == 400
    assert send(site.client, "/accounts/deploying", act="role", role="admin").status_code == 303
    assert accounts.by_token(token).role is Role.ADMIN
    assert send(site.client, "/accounts/adminer", act="remove").status_code == 303
    assert site.client.get("/").status_code == 303
    assert CliRunner().invoke(commands, ["user", "remove", "deploying", "--repo", str(site.repo)]).exit_code == 0


def test_another_token_lives_as_long_as_the_one_before(site: Site) -> None:
    """From its reset on, also behind the end of the first one; one for ever stays that."""
    now_s = [1000.0]
    accounts = Accounts(site.registry.database, lambda: now_s[0])
    accounts.add_token("brief", Role.VIEW, lifetime_s=10)
    accounts.add_token("lasting", Role.VIEW)
    now_s[0] = 2000.0
    text = accounts.renew_token(accounts.known("brief"))
    accounts.renew_token(accounts.known("lasting"))
    assert (accounts.by_token(text).made_s, accounts.known("brief").expires_s) == (2000.0, 2010.0)
    assert accounts.known("lasting").expires_s == 0.0


def test_the_commands_add_list_change_and_remove_accounts(site: Site, tmp_path: Path) -> None:
    """A user by a password file, a token that is printed once."""
    (tmp_path / "password").write_text("long enough\n")

    def run(*arguments: str) -> str:
        given = ["user", *arguments, "--repo", str(site.repo)]
        return CliRunner().invoke(commands, given, catch_exceptions=False).output

    run("add", "anna", "--role", "admin", "--password-file", str(tmp_path / "password"))
    token = run("add", "robot", "--role", "view", "--token", "--expires", "1d").strip()
    assert Accounts(site.registry.database).by_password("anna", "long enough").account.role is Role.ADMIN
    assert Accounts(site.registry.database).by_token(token).role is Role.VIEW
    assert "robot" in run("list")
    (tmp_path / "password").write_text("another one\n")
    run("reset", "anna", "--password-file", str(tmp_path / "password"))
    assert Accounts(site.registry.database).by_password("anna", "another one").account.role is Role.ADMIN
    run("change", "robot", "--role", "deploy")
    second = run("reset", "robot").strip()
    accounts = Accounts(site.registry.database)
    assert (accounts.by_token(token), accounts.by_token(second).role) == (None, Role.DEPLOY)
    with pytest.raises(UsageError, match="robot is a token"):
        run("reset", "robot", "--password-file", str(tmp_path / "password"))
    run("remove", "robot")
    assert "robot" not in run("list")
    with pytest.raises(UsageError, match="there is an account"):
        run("add", "anna", "--role", "view", "--password-file", str(tmp_path / "password"))


def test_every_user_has_a_role() -> None:
    """The tests cover each role."""
    assert set(USERS) == set(Role)
