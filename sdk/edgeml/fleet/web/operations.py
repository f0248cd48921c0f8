"""The operation table: each path and method of the dashboard, the role that it needs, its bodies, its errors.

Routes and the OpenAPI document are made from it. Bodies and queries are the types that endpoints read and write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgeml.fleet.rollouts.plan import Rollout
from edgeml.fleet.web.accounts import Account, Role
from edgeml.fleet.web.view_model import DeviceDetails, DevicePage, Overview, ReleaseDetails, RolloutProgress
from edgeml.repository import Release
from edgeml.repository.audit import Entry
from edgeml_core.calls import LINES, LINES_MAX, SECONDS, Kind, Reply
from edgeml_core.names import NAME_MAX_CHARS
from edgeml_core.selectors import SELECTOR_MAX_CHARS

JSON: Final = "application/json"
CSV: Final = "text/csv"
HTML: Final = "text/html"
TEXT: Final = "text/plain"
EVENTS: Final = "text/event-stream"
#: A type, or a schema where there is no type.
Body: TypeAlias = type | Mapping[str, Any]
_STRING: Final[Mapping[str, Any]] = {"type": "string"}
#: Devices of one page, or part of a table: the table of 5,000 devices is one request.
PAGE_MAX: Final = 10_000
#: Seconds until a call to a device has its answer or its error: browsers and proxies wait for a minute.
ANSWER_MAX_S: Final = 55.0
#: Seconds of a benchmark, after the warm-up.
CALL_SECONDS_MAX: Final = 20.0

#: The path of the page and form of the account that is logged in.
OWN_ACCOUNT: Final = "/account"

Format = Literal["json", "csv"]
AccountName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
Act = Literal["pause", "resume", "approve", "abort", "rollback"]


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query without parameters."""


class DeviceQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The choice of devices, by all that is given."""

    selector: Annotated[str, Meta(max_length=SELECTOR_MAX_CHARS, description="as site=farm-7,board!=rpi4")] = ""
    state: Annotated[str, Meta(description="as failed, offline, unwell, active")] = ""
    version: Annotated[str, Meta(description="of a model, as 1.0 or minilm:1.0")] = ""
    after: Annotated[str, Meta(description="only devices behind this id")] = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="of a page in JSON; CSV has all devices")] = 100
    format: Format = "json"


class SteerQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of a rollout that an operator has seen."""

    wave: Annotated[int, Meta(ge=1, description="refuses the act where another wave is the next one")] | None = None


class AuditQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest entries of the audit log, or those before a number."""

    last: Annotated[int, Meta(ge=1, le=PAGE_MAX, description="of a page in JSON; CSV has all entries")] = 100
    before: Annotated[int, Meta(ge=0, description="only entries with a smaller number; 0 for all")] = 0
    format: Format = "json"


class FileQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content that a page means: a browser keeps a file for its address."""

    digest: str = ""


class NewCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call to a device. `verify` and `bench` run a model, which need not be named where the device has one."""

    kind: Kind
    model: Annotated[str, Meta(max_length=NAME_MAX_CHARS)] = ""
    lines: Annotated[int, Meta(ge=1, le=LINES_MAX, description="of the log")] = LINES
    seconds: Annotated[float, Meta(gt=0, le=CALL_SECONDS_MAX, description="of a benchmark")] = SECONDS


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to add. It expires after `days`; 0 is never."""

    name: AccountName
    role: Role
    days: Annotated[int, Meta(ge=0, le=3650)] = 0


class NewUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user to add, by the form of the page."""

    name: AccountName
    role: Role
    password: str


class NewRole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another role of an account, by the form of its page."""

    role: Role


class AddedToken(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a new token, which is shown this one time."""

    token: str


class Rollouts(msgspec.Struct, frozen=True, kw_only=True):
    """All rollouts, the newest first."""

    rollouts: tuple[Rollout, ...]


class Releases(msgspec.Struct, frozen=True, kw_only=True):
    """All releases, in the order of their publication."""

    releases: tuple[Release, ...]


class AuditLog(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the audit log, the newest first."""

    entries: tuple[Entry, ...]


class AccountList(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts, by name."""

    accounts: tuple[Account, ...]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error: its stable code, a message for people, and the remedy."""

    code: str
    message: str
    hint: str


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an error."""

    error: Refusal


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One path by one method.

    Attributes:
        path: exact, or with `{names}` for parts without a slash.
        endpoint: the name of the function that answers.
        role: that the account needs; None for everybody.
        query: the type of its parameters.
        takes: the type of its JSON body; None where it reads no body.
        gives: bodies of the answer by media type.
        fails: codes of this operation's own errors.
        is_form: whether it reads a form of a page.
        is_page: whether it belongs to the pages: errors are pages, and the document leaves it out.
    """

    method: str
    path: str
    endpoint: str
    summary: str
    gives: Mapping[str, Body] = field(default_factory=dict)
    role: Role | None = Role.VIEW
    query: type[Query] = Query
    takes: type | None = None
    fails: tuple[str, ...] = ()
    is_form: bool = False
    is_page: bool = False

    @property
    def is_act(self) -> bool:
        """Whether it is written to the audit log, under the repository's lock; so is a user's own password."""
        return self.method != "GET" and (self.role in {Role.DEPLOY, Role.ADMIN} or self.path == OWN_ACCOUNT)


def _get(path: str, endpoint: str, summary: str, gives: Body, **more: Any) -> Operation:  # noqa: ANN401
    bodies = {JSON: gives} if isinstance(gives, type) else gives
    return Operation(method="GET", path=path, endpoint=endpoint, summary=summary, gives=bodies, **more)


_CSV: Final[Mapping[str, Any]] = _STRING
API: Final = (
    _get("/api/v1/fleet", "show_fleet", "The whole fleet: deployments, hosts, failures, drift, groups.", Overview),
    Operation(
        method="GET",
        path="/api/v1/devices",
        endpoint="list_devices",
        summary="Devices by id, by label, state and version.",
        query=DeviceQuery,
        gives={JSON: DevicePage, CSV: _CSV},
        fails=("usage",),
    ),
    _get(
        "/api/v1/devices/{device}",
        "show_device",
        "One device with its last states and reports.",
        DeviceDetails,
        fails=("device-unknown",),
    ),
    Operation(
        method="POST",
        path="/api/v1/devices/{device}/calls",
        endpoint="call_device",
        summary="Read a device's log, check it, verify or benchmark a model that it has, or restart its agent.",
        role=Role.DEPLOY,
        takes=NewCall,
        gives={JSON: Reply},
        fails=(
            "usage",
            "device-unknown",
            "release-unknown",
            "device-offline",
            "broker-refused",
            "broker-unreachable",
            "repo-invalid",
            "call-timeout",
        ),
    ),
    _get("/api/v1/rollouts", "list_rollouts", "The rollouts, the newest first.", Rollouts),
    _get(
        "/api/v1/rollouts/{rollout}",
        "show_rollout",
        "How far a rollout is, by wave.",
        RolloutProgress,
        fails=("rollout-unknown",),
    ),
    Operation(
        method="POST",
        path="/api/v1/rollouts/{rollout}/{act}",
        endpoint="steer_rollout",
        summary="Pause, resume, approve, abort or take back (rollback) a rollout.",
        role=Role.DEPLOY,
        query=SteerQuery,
        gives={JSON: Rollout},
        fails=("rollout-unknown", "usage"),
    ),
    _get("/api/v1/releases", "list_releases", "The releases with their cards.", Releases),
    _get(
        "/api/v1/releases/{release}",
        "show_release",
        "One release, by the name of its bundle, with its card and measurements.",
        ReleaseDetails,
        fails=("release-unknown",),
    ),
    Operation(
        method="GET",
        path="/api/v1/audit",
        endpoint="list_audit",
        summary="The audit log, the newest entry first.",
        query=AuditQuery,
        gives={JSON: AuditLog, CSV: _CSV},
    ),
    _get("/api/v1/accounts", "list_accounts", "The accounts, without their secrets.", AccountList, role=Role.ADMIN),
    Operation(
        method="POST",
        path="/api/v1/tokens",
        endpoint="add_token",
        summary="Add a token.",
        role=Role.ADMIN,
        takes=NewToken,
        gives={JSON: AddedToken},
        fails=("account-exists", "usage"),
    ),
    Operation(
        method="DELETE",
        path="/api/v1/accounts/{account}",
        endpoint="remove_account",
        summary="Remove a user or a token, and end its sessions.",
        role=Role.ADMIN,
        gives={JSON: AccountList},
        fails=("account-unknown",),
    ),
    Operation(
        method="GET",
        path="/metrics",
        endpoint="show_metrics",
        summary="Counts in Prometheus' text format.",
        gives={TEXT: _STRING},
    ),
    _get("/health", "show_health", "Whether the server answers.", {JSON: {"type": "object"}}, role=None),
    _get("/openapi.json", "show_document", "This document.", {JSON: {"type": "object"}}, role=None),
)


def _page(path: str, endpoint: str, summary: str, **more: Any) -> Operation:  # noqa: ANN401
    values = {"method": "GET", "gives": {HTML: _STRING}, **more}
    return Operation(path=path, endpoint=endpoint, summary=summary, is_page=True, **values)


def _form(path: str, endpoint: str, summary: str, role: Role | None, query: type[Query] = Query) -> Operation:
    return _page(path, endpoint, summary, method="POST", role=role, query=query, is_form=True)


PAGES: Final = (
    _page("/", "overview_page", "The fleet."),
    _page("/devices", "devices_page", "The table of devices.", query=DeviceQuery),
    _page("/devices/{device}", "device_page", "One device."),
    _form("/devices/{device}", "call_form", "Call a device.", Role.DEPLOY),
    _page("/rollouts", "rollouts_page", "The rollouts."),
    _page("/rollouts/{rollout}", "rollout_page", "One rollout."),
    _page("/rollouts/{rollout}/events", "rollout_events", "An event at each change of a rollout.", gives={EVENTS: {}}),
    _form("/rollouts/{rollout}/{act}", "steer_form", "Steer a rollout.", Role.DEPLOY, SteerQuery),
    _page("/releases", "releases_page", "The releases."),
    _page("/releases/{release}", "release_page", "One release."),
    _page("/releases/{release}/card", "card_page", "The card of a release with its plots."),
    _page("/audit", "audit_page", "The audit log.", query=AuditQuery),
    _page("/accounts", "accounts_page", "The accounts.", role=Role.ADMIN),
    _form("/accounts", "add_account_form", "Add an account.", Role.ADMIN),
    _page("/accounts/{account}", "account_page", "One account.", role=Role.ADMIN),
    _form("/accounts/{account}", "change_account_form", "Change or remove an account.", Role.ADMIN),
    _page(OWN_ACCOUNT, "own_account_page", "The account that is logged in."),
    _form(OWN_ACCOUNT, "own_password_form", "Change the password of the account that is logged in.", Role.VIEW),
    _page("/login", "login_page", "The form to log in.", role=None),
    _form("/login", "login_form", "Log in.", None),
    _form("/logout", "logout_form", "Log out.", Role.VIEW),
    _page("/static/{file}", "static_file", "A file of the pages.", role=None, query=FileQuery, gives={}),
)
OPERATIONS: Final = (*API, *PAGES)
