"""Errors over HTTP: the status of each code that a client can cause. Any other code is 500."""

from __future__ import annotations

from typing import Final

_STATUS: Final[dict[str, int]] = {
    "input-invalid": 400,
    "usage": 400,
    "unauthorized": 401,
    "login-failed": 401,
    "forbidden": 403,
    "form-expired": 403,
    "origin-refused": 403,
    "account-unknown": 404,
    "device-unknown": 404,
    "release-unknown": 404,
    "rollout-unknown": 404,
    "route-unknown": 404,
    "account-exists": 409,
    "device-offline": 409,
    "body-too-large": 413,
    "content-unsupported": 415,
    "overloaded": 429,
    "broker-refused": 502,
    "broker-unreachable": 502,
    "repo-invalid": 503,
    "store-failed": 503,
    "call-timeout": 504,
}


def status_of(code: str) -> int:
    """Return the HTTP status of an error's code."""
    return _STATUS.get(code, 500)
