"""Login, sessions and their end, the limits of failed logins, CSRF and session fixation."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from edgeml.fleet.database.schema import SESSION
from edgeml.fleet.web.accounts import Accounts, Role, Verified, hash_password
from edgeml.fleet.web.login_limits import PER_ADDRESS_MAX, WINDOW_S, LoginLimits
from edgeml.fleet.web.sessions import AGE_MAX_S, IDLE_MAX_S, PER_ACCOUNT_MAX, SEEN_EVERY_S, Sessions
from edgeml_core.errors import OverloadedError
from support.dashboard_app import Site, csrf_of
from support.dashboard_fleet import PASSWORD


def test_a_login_makes_a_new_session(site: Site) -> None:
    """The cookie that the browser had before is worth nothing, and no script can read the new one."""
    site.client.cookies.set("edgeml-session", "chosen-by-an-attacker")
    answer = site.log_in("viewer")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    [cookie] = [it for it in answer.headers.get_list("set-cookie") if it.startswith("edgeml-session=")]
    assert "chosen-by-an-attacker" not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert site.client.get("/").status_code == 200
    stolen = site.browser()
    stolen.cookies.set("edgeml-session", "chosen-by-an-attacker")
    assert stolen.get("/").status_code == 303


def test_the_password_of_a_proxy_is_no_token(site: Site) -> None:
    """A browser that gave it one sends it with each request, beside its cookie."""
    site.client.headers["Authorization"] = "Basic YW5uYTpzZWNyZXQ="
    assert site.client.get("/api/v1/fleet").status_code == 401
    assert site.log_in("viewer").status_code == 303
    assert site.client.get("/").status_code == 200
    assert site.client.post("/logout", data={"csrf": "x"}).status_code == 403
    site.client.headers["Authorization"] = "Bearer wrong"
    assert site.client.get("/api/v1/fleet").status_code == 401


def test_a_second_login_ends_the_first_session(site: Site) -> None:
    """The old cookie isn't valid beside the new one."""
    site.log_in("viewer")
    old = site.client.cookies["edgeml-session"]
    site.client.post("/logout", data={"csrf": csrf_of(site.client.get("/").text)})
    assert site.client.get("/").status_code == 303
    site.log_in("deployer")
    stolen = site.browser()
    stolen.cookies.set("edgeml-session", old)
    assert stolen.get("/").status_code == 303


def test_over_tls_cookies_are_secure(site: Site) -> None:
    """And are bound to the host."""
    secure = Site(site.repo, site.registry, site.tokens, is_secure=True)
    answer = secure.log_in("viewer", client=secure.browser("https://fleet.example"))
    [cookie] = [it for it in answer.headers.get_list("set-cookie") if it.startswith("__Host-edgeml-session=")]
    assert "Secure" in cookie.split("; ")


def test_a_token_logs_in_without_a_name(site: Site) -> None:
    """With the role of the token."""
    assert site.log_in("", site.tokens[Role.DEPLOY]).status_code == 303
    assert "deploy-token" in site.client.get("/").text


@pytest.mark.parametrize(("name", "password"), [("viewer", "wrong"), ("nobody", PASSWORD), ("", "wrong"), ("\0", "x")])
def test_a_wrong_login_is_refused(site: Site, name: str, password: str) -> None:
    """By one message, which doesn't name the part that is wrong."""
    answer = site.log_in(name, password)
    assert answer.status_code == 401
    assert "The name and password, or the token, are wrong." in answer.text


def test_forms_need_their_csrf_token(site: Site) -> None:
    """A login without the form's cookie, and an act without the session's token, are refused."""
    form = {"name": "deployer", "password": PASSWORD}
    assert site.client.post("/login", data=form).status_code == 403
    assert site.client.post("/login", data={**form, "csrf": "x"}).status_code == 403
    site.log_in("deployer")
    path = f"/rollouts/{site.rollout}"
    assert site.client.post(f"{path}/pause", data={"csrf": "x"}).status_code == 403
    assert site.client.post(f"/api/v1{path}/pause").status_code == 403
    page = site.client.get(path).text
    assert site.client.post(f"{path}/pause", data={"csrf": csrf_of(page)}).status_code == 303
    header = {"X-CSRF-Token": csrf_of(page)}
    assert site.client.post(f"/api/v1{path}/resume", headers=header).status_code == 200


def test_logins_are_limited_by_address_and_account() -> None:
    """Until the window is over; successful ones don't count."""
    now_s = [0.0]
    limits = LoginLimits(lambda: now_s[0])
    for _ in range(3 * PER_ADDRESS_MAX):
        limits.begin("1.2.3.4", "anna")
        limits.succeed("1.2.3.4", "anna")
    for at in range(PER_ADDRESS_MAX):
        limits.begin("1.2.3.4", f"user-{at}")
    with pytest.raises(OverloadedError) as refused:
        limits.begin("1.2.3.4", "anna")
    assert 0 < refused.value.retry_after_s <= WINDOW_S + 1
    limits.begin("5.6.7.8", "anna")
    now_s[0] += WINDOW_S
    limits.begin("1.2.3.4", "anna")


def test_logins_of_an_ipv6_network_count_together() -> None:
    """A client has 2**64 addresses there."""
    limits = LoginLimits(lambda: 0.0)
    for at in range(PER_ADDRESS_MAX):
        limits.begin(f"2001:db8::{at}", f"user-{at}")
    with pytest.raises(OverloadedError):
        limits.begin("2001:db8::ffff", "anna")
    limits.begin("2001:db8:0:1::1", "anna")


def test_long_names_of_failed_logins_take_no_memory() -> None:
    """A form has room for 16 KiB, and the limits remember 10,000 names."""
    limits = LoginLimits(lambda: 0.0)
    tracemalloc.start()
    for at in range(100):
        limits.begin(f"1.2.3.{at}", f"user-{at}" + "x" * 15_000)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 100_000


def viewer_of(site: Site) -> Verified:
    """The account of that name, whose password was right."""
    verified = Accounts(site.registry.database).by_password("viewer", PASSWORD)
    assert verified is not None
    return verified


def test_sessions_end_by_age_and_by_number(site: Site) -> None:
    """An idle one, an old one, and the oldest of too many."""
    now_s = [1000.0]
    sessions = Sessions(site.registry.database, lambda: now_s[0])
    viewer, cookies = viewer_of(site), []
    for _ in range(PER_ACCOUNT_MAX + 1):
        now_s[0] += 1
        cookies.append(sessions.begin(viewer))
    assert sessions.find(cookies[0]) is None
    assert sessions.find(cookies[1]) is not None
    now_s[0] += IDLE_MAX_S + 1
    assert sessions.find(cookies[-1]) is None
    kept = sessions.begin(viewer)
    began_s = now_s[0]
    while now_s[0] < began_s + AGE_MAX_S - IDLE_MAX_S / 2:
        now_s[0] += IDLE_MAX_S / 2
        assert sessions.find(kept) is not None
    now_s[0] += IDLE_MAX_S
    assert sessions.find(kept) is None


def test_what_pages_ask_by_themselves_is_no_use(site: Site) -> None:
    """A page that stays open follows the fleet, and its session ends as if it were closed."""
    rollout = f"/rollouts/{site.rollout}"

    def after(seconds: float, path: str, **headers: str) -> Any:
        with site.registry.database.writing() as connection:
            connection.execute(sa.update(SESSION).values(seen_s=SESSION.c.seen_s - seconds))
        return site.client.get(path, headers={"HX-Request": "true", **headers})

    site.log_in("viewer")
    [live] = {re.search(r"hx-headers='(.+?)'", site.client.get(path).text)[1] for path in ("/", rollout)}
    assert after(IDLE_MAX_S - 600, "/devices").status_code == 200  # a filter asks for a part, too
    assert after(IDLE_MAX_S - 600, "/", **json.loads(live)).status_code == 200
    assert after(0, rollout, **json.loads(live)).status_code == 200
    assert after(0, "/rollouts/none/events").status_code == 404
    assert after(600, "/", **json.loads(live)).headers["HX-Redirect"] == "/login"


def test_a_session_is_found_in_a_database_that_cannot_be_written(site: Site) -> None:
    """Its time waits until the disk has room again."""
    now_s = [1000.0]
    sessions = Sessions(site.registry.database, lambda: now_s[0])
    cookie = sessions.begin(viewer_of(site))
    now_s[0] += SEEN_EVERY_S + 1
    full = "CREATE TRIGGER f BEFORE UPDATE ON session BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
    with site.registry.database.writing() as connection:
        connection.exec_driver_sql(full)
    assert sessions.find(cookie).account == "viewer"


def test_secrets_are_stored_hashed_and_tokens_expire(site: Site) -> None:
    """The database has neither a password nor a token nor a cookie."""
    now_s = [0.0]
    accounts = Accounts(site.registry.database, lambda: now_s[0])
    token = accounts.add_token("brief", Role.VIEW, lifetime_s=10)
    assert accounts.by_token(token).name == "brief"
    now_s[0] = 11
    assert accounts.by_token(token) is None
    cookie = Sessions(site.registry.database).begin(viewer_of(site))
    site.registry.close()
    stored = b"".join(it.read_bytes() for it in site.repo.glob("fleet.db*"))
    assert b"$argon2id$" in stored
    assert not [it for it in (token, cookie, PASSWORD, *site.tokens.values()) if it.encode() in stored]


def test_a_removed_account_ends_its_sessions(site: Site) -> None:
    """At the next request."""
    site.log_in("viewer")
    assert site.call("DELETE", "/api/v1/accounts/viewer", Role.ADMIN).status_code == 200
    assert site.client.get("/").status_code == 303


def after_verifying(monkeypatch: pytest.MonkeyPatch, act: Callable[[Accounts], None]) -> None:
    """Let an act of an administrator come between the check of a password or token and its use."""
    by_password, by_token = Accounts.by_password, Accounts.by_token

    def check_slowly(check: Callable[..., Any]) -> Callable[..., Any]:
        def checked(self: Accounts, *given: str) -> Any:
            found = check(self, *given)
            act(self)
            return found

        return checked

    monkeypatch.setattr(Accounts, "by_password", check_slowly(by_password))
    monkeypatch.setattr(Accounts, "by_token", check_slowly(by_token))


def test_a_login_in_the_instant_of_the_removal_begins_no_session(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be one of the next account of that name."""
    after_verifying(monkeypatch, lambda accounts: accounts.remove("viewer"))
    assert site.log_in("viewer").status_code == 401
    Accounts(site.registry.database).add_user("viewer", Role.ADMIN, "a hash")
    assert site.client.get("/").status_code == 303


@pytest.mark.parametrize("name", ["viewer", ""])
def test_a_login_in_the_instant_of_a_reset_begins_no_session(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By the old password or token: it would outlive the reset by hours."""
    token = Accounts(site.registry.database).known("deploy-token")

    def reset(accounts: Accounts) -> None:
        accounts.set_password("viewer", hash_password("another one"))
        accounts.renew_token(token)

    after_verifying(monkeypatch, reset)
    assert site.log_in(name, PASSWORD if name else site.tokens[Role.DEPLOY]).status_code == 401
    assert site.client.get("/").status_code == 303


def test_a_reset_is_not_undone_by_the_users_own_change(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change may wait for the repository for minutes, with a password that was right before."""
    site.log_in("viewer")
    csrf = csrf_of(site.client.get("/account").text)
    reset = hash_password("by the administrator")
    after_verifying(monkeypatch, lambda accounts: accounts.set_password("viewer", reset))
    answer = site.client.post("/account", data={"present": PASSWORD, "password": "quite another", "csrf": csrf})
    assert (answer.status_code, "was replaced meanwhile" in answer.text) == (401, True)
    monkeypatch.undo()
    assert site.log_in("viewer", "by the administrator").status_code == 303
    assert site.get("/api/v1/audit?last=1").json()["entries"][0]["act"] != "password reset"
